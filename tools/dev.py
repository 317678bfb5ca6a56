"""One entry for everything a developer or a first-time user runs. Needs Python 3.10 or newer, nothing else.

python tools/dev.py demo      from a prompt to an mp4, on any machine, with the demo model of the pack
python tools/dev.py test      every check and every test
python tools/dev.py serve     ComfyUI with this pack, in the browser
python tools/dev.py doctor    what works here, what is missing and where to get it
python tools/dev.py workflows write workflows/ anew after a change of nodes or graphs
python tools/dev.py pictures  make the pictures of the help pages and README and the templates' thumbnails anew
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools import comfyui, console, environment
from tools.paths import DEMO_OUTPUT, venv_python

DEFAULT_WORKFLOW = "hyvideo_demo_t2v"
EXIT_FAILED = 1
EXIT_INTERRUPTED = 130


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="dev.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="{demo,test,serve,doctor,workflows,pictures}")
    demo = commands.add_parser("demo", help="make a video through a real ComfyUI")
    demo.add_argument("--prompt", help="what to show (default: the workflow's)")
    demo.add_argument("--workflow", default=DEFAULT_WORKFLOW, help="name in workflows/api, or a path")
    demo.add_argument("--output", type=Path, default=DEMO_OUTPUT, help="folder of the video")
    demo.add_argument("--seed", type=int, default=None, help="seed of the noise (default: the workflow's)")
    test = commands.add_parser("test", help="run every check and test", add_help=False)
    test.add_argument("pytest_args", nargs=argparse.REMAINDER, help="given: only pytest, with these")
    serve = commands.add_parser("serve", help="open ComfyUI with this pack")
    serve.add_argument("--port", type=int, default=8188, help="port on 127.0.0.1 (default: %(default)s)")
    commands.add_parser("workflows", help="write workflows/ and docs/nodes.md anew")
    pictures = commands.add_parser("pictures", help="make the pictures of help and README and the thumbnails anew")
    pictures.add_argument("names", nargs="*", help="only these, 'screens', 'thumbnails' or 'readme' among them")
    commands.add_parser("doctor", help="report versions, GPU, kernels and model files; changes nothing")
    return top


def main(argv: list[str]) -> int:
    """Run one command and return its exit code."""
    console.use_safe_encoding()
    arguments, rest = parser().parse_known_args(argv)
    if rest and arguments.command != "test":
        parser().error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        environment.check_python()
        if arguments.command == "doctor":
            return run_doctor(argv)
        host = environment.ensure()
        if not environment.inside_venv():
            return continue_in_venv(argv)
        return run(arguments, [*rest, *getattr(arguments, "pytest_args", [])], host)
    except console.ToolError as error:
        print(f"\nerror: {error}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return EXIT_INTERRUPTED


def run(arguments: argparse.Namespace, pytest_args: list[str], host: Path) -> int:
    """Run a command inside the environment; each imports what it needs only now."""
    if arguments.command == "demo":
        from tools import demo

        return demo.run(host, arguments.prompt, arguments.workflow, arguments.output, arguments.seed)
    if arguments.command == "serve":
        from tools import serve

        return serve.run(host, arguments.port)
    if arguments.command == "workflows":
        from tools import workflows

        return workflows.run(host)
    if arguments.command == "pictures":
        from tools.pictures import making

        return making.run(host, arguments.names)
    from tools import checks

    return checks.run(pytest_args)


def run_doctor(argv: list[str]) -> int:
    """Run the doctor where ComfyUI runs: in this Python if it may be that of the user's ComfyUI, else in ours."""
    may_be_comfyuis = comfyui.is_users_own() and importlib.util.find_spec("torch") is not None
    if environment.is_ready() and not environment.inside_venv() and not may_be_comfyuis:
        return continue_in_venv(argv)
    from tools import doctor

    return doctor.run()


def continue_in_venv(argv: list[str]) -> int:
    """Start this file again with the environment's interpreter."""
    command = [str(venv_python()), str(Path(__file__).resolve()), *argv]
    sys.stdout.flush()
    if os.name == "nt":
        return subprocess.call(command)
    os.execve(command[0], command, console.clean_environment())


def raise_exit(number: int, _frame: object) -> None:
    """Turn a request to end into an exception, so that every ``finally`` runs and no server is left behind."""
    raise SystemExit(128 + number)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, raise_exit)
    sys.exit(main(sys.argv[1:]))
