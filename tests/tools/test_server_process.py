"""A server process is started on a free port, watched while it starts, and always ended."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tools import model_files, serve
from tools import server as server_module
from tools.console import ToolError
from tools.paths import ROOT
from tools.server import Server, free_port, is_taken, link_folder

ANSWERS = """
import http.server, sys
port = int(sys.argv[sys.argv.index("--port") + 1])
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b"{}")
http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""
DIES = "print('cannot find the thing'); raise SystemExit(1)"
PORT_RACE = f"""
import pathlib
marker = pathlib.Path("second")
if not marker.exists():
    marker.touch(); raise SystemExit("OSError: [Errno 98] address already in use")
{ANSWERS}
"""
IGNORES_TERM = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n{ANSWERS}"


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Makes servers whose ``main.py`` is the given source."""
    monkeypatch.setattr(server_module.environment, "has_gpu", lambda python: False)
    made: list[Server] = []

    def make(source: str, **options: object) -> Server:
        (tmp_path / "host").mkdir()
        (tmp_path / "host" / "main.py").write_text(source)
        made.append(Server(tmp_path / "host", tmp_path / "base", python=Path(sys.executable), **options))
        return made[-1]

    yield make
    for server in made:
        server.stop()


def test_a_free_port_can_be_bound_and_a_used_one_is_seen() -> None:
    port = free_port()
    assert not is_taken(port)
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", port))
        holder.listen()
        assert is_taken(port)


def test_a_server_answers_inside_its_block_and_is_gone_after_it(stand_in) -> None:
    with stand_in(ANSWERS) as server:
        assert server.client().system_stats() == {}
        assert server.is_alive()
        assert is_taken(server.port)
    assert not server.is_alive()
    assert not is_taken(server.port)


def test_a_server_ends_when_the_block_raises(stand_in) -> None:
    server = stand_in(ANSWERS)
    with pytest.raises(KeyboardInterrupt), server:
        raise KeyboardInterrupt
    assert not is_taken(server.port)


def test_a_server_that_dies_while_starting_shows_its_log(stand_in) -> None:
    server = stand_in(DIES)
    with pytest.raises(ToolError, match="cannot find the thing") as caught:
        server.start()
    assert str(server.log) in str(caught.value)


def test_a_lost_race_for_the_port_is_run_again_on_another(stand_in) -> None:
    with stand_in(PORT_RACE) as server:
        assert server.is_alive()


def test_a_chosen_port_in_use_is_told_at_once(stand_in) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(ToolError, match=f"Port {port} is in use"):
            stand_in(ANSWERS, port=port).start()


def test_serve_tells_of_a_used_port_before_it_does_anything(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(Server, "start", lambda _self: pytest.fail("started"))
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        with pytest.raises(ToolError, match="choose another with --port"):
            serve.run(tmp_path, holder.getsockname()[1])
    assert not capsys.readouterr().out


def test_serve_says_where_everything_is(
    stand_in, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    server = stand_in(ANSWERS)
    monkeypatch.setattr(serve, "Server", lambda *_, **__: server)
    monkeypatch.setattr(serve.webbrowser, "open", lambda url: None)
    monkeypatch.setattr(server, "wait", lambda: 0)
    assert serve.run(tmp_path, 0) == 0
    said = capsys.readouterr().out
    assert all(str(place) in said for place in (server.url, server.output, server.log, serve.HOST_BASE / "models"))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows ends processes without asking them")
def test_a_server_that_does_not_listen_is_killed(stand_in, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "STOP_TIMEOUT_S", 0.3)
    server = stand_in(IGNORES_TERM)
    server.start()
    server.stop()
    assert not is_taken(server.port)


def test_only_a_machine_without_gpu_gets_the_cpu_flag(stand_in, monkeypatch: pytest.MonkeyPatch) -> None:
    server = stand_in(ANSWERS)
    assert "--cpu" in server.command()
    monkeypatch.setattr(server_module.environment, "has_gpu", lambda python: True)
    assert "--cpu" not in server.command()


def test_the_pack_is_linked_and_the_demo_helper_only_where_wanted(stand_in) -> None:
    server = stand_in(ANSWERS, native_widths=True)
    server.prepare_base()
    nodes = server.base / "custom_nodes"
    assert (nodes / "hyvideo-studio").resolve() == ROOT
    assert (nodes / "native_widths" / "__init__.py").is_file()
    for source in model_files.SOURCES.values():
        assert (server.base / "models" / source.folder).is_dir()
    server.native_widths = False
    server.prepare_base()
    assert [path.name for path in nodes.iterdir()] == ["hyvideo-studio"]


def test_a_link_follows_a_moved_clone_and_never_replaces_a_folder(tmp_path: Path) -> None:
    old, new, link = tmp_path / "old", tmp_path / "new", tmp_path / "link"
    old.mkdir()
    new.mkdir()
    link_folder(link, old)
    link_folder(link, new)
    assert link.resolve() == new
    (tmp_path / "real").mkdir()
    with pytest.raises(ToolError, match="in the way"):
        link_folder(tmp_path / "real", new)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows ends processes without asking them")
def test_a_command_that_is_ended_takes_its_server_with_it(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(ANSWERS)
    code = (
        f"import signal, sys, time; from pathlib import Path; sys.path.insert(0, {str(ROOT)!r})\n"
        "from tools import dev, server\n"
        "signal.signal(signal.SIGTERM, dev.raise_exit)\n"
        "server.environment.has_gpu = lambda python: False\n"
        f"folder = Path({str(tmp_path)!r})\n"
        "with server.Server(folder, folder / 'base', python=Path(sys.executable)) as running:\n"
        "    print(running.port, flush=True)\n"
        "    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as command:
        assert command.stdout is not None
        port = int(command.stdout.readline())
        assert is_taken(port)
        command.terminate()
        assert command.wait(30) == 128 + signal.SIGTERM
    assert not is_taken(port)
