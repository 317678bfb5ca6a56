"""What the README says can be done as it stands: its settings are the nodes', its examples run."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hyvideo_core.text import IMAGE, VIDEO
from tools.client import ComfyClient
from tools.paths import ROOT
from tools.server import Server
from tools.toy_model.workflows import with_toy_files
from tools.workflow_graphs import REAL, WORKFLOWS

README = (ROOT / "README.md").read_text("utf-8")
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COMFY_DYNAMICCOMBO_V3")
ADVANCED = "*(advanced)*"
Setting = tuple[str, bool]


def section(title: str) -> str:
    """The text under a heading, up to the next of the same or a higher level."""
    level, rest = re.search(rf"^(#+) {re.escape(title)}\n(.*)", README, re.MULTILINE | re.DOTALL).groups()
    return re.split(rf"^#{{1,{len(level)}}} ", rest, maxsplit=1, flags=re.MULTILINE)[0]


def block(language: str) -> str:
    """The one example in this language among those for programs."""
    (text,) = re.findall(rf"```{language}\n(.*?)```", section("For programs"), re.DOTALL)
    return text


def stated_settings() -> dict[tuple[str, str], Setting]:
    """(node, setting) → (default, whether advanced), as the table has them."""
    stated: dict[tuple[str, str], Setting] = {}
    nodes: list[str] = []
    for line in section("Settings").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) != 4 or cells[0] == "Node" or set(cells[0]) == {"-"}:
            continue
        nodes = cells[0].split(", ") if cells[0] else nodes
        names = cells[1].replace(ADVANCED, "").strip().split(", ")
        # ".height" after "resolution.width" is "resolution.height".
        names = [names[0].rpartition(".")[0] + name if name.startswith(".") else name for name in names]
        defaults = cells[2].split(", ") if len(names) > 1 else [cells[2]]
        for node in nodes:
            for name, default in zip(names, defaults, strict=True):
                assert (node, name) not in stated
                stated[node, name] = (default, ADVANCED in cells[1])
    return stated


def widgets(inputs: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(path, kind, options) of every setting, those behind a choice included."""
    for group in ("required", "optional"):
        for name, (kind, options, *_) in ((n, [*s, {}]) for n, s in inputs.get(group, {}).items()):
            if kind not in WIDGETS:
                continue
            yield prefix + name, kind, options
            for option in options["options"] if kind == "COMFY_DYNAMICCOMBO_V3" else []:
                yield from widgets(option["inputs"], f"{prefix}{name}.")


def as_stated(kind: str, options: dict[str, Any]) -> Setting:
    """A default in the README's words."""
    value = options.get("default", options["options"][0]["key"] if kind == "COMFY_DYNAMICCOMBO_V3" else None)
    words = {None: "–", "": "empty", VIDEO.text: "the video template"}
    if kind == "BOOLEAN":
        return "on" if value else "off", bool(options.get("advanced"))
    text = words.get(value) or (value if isinstance(value, str) else f"{value:g}".replace("-", "−"))
    return text, bool(options.get("advanced"))


def test_the_table_of_settings_is_that_of_the_nodes(client: ComfyClient) -> None:
    found = {
        (node["display_name"], path): as_stated(kind, options)
        for node in client.object_info().values()
        if node["category"].startswith("HyVideo Studio")
        for path, kind, options in widgets(node["input"])
    }
    assert stated_settings() == found


def test_the_limits_of_prompts_are_those_of_the_templates() -> None:
    # One token ends the prompt.
    rooms = [template.max_length - (template.crop_start or 0) - 1 for template in (VIDEO, IMAGE)]
    assert "At most {} tokens, some 190 words; {} with the template `image`".format(*rooms) in section("Settings")


def test_every_template_is_named() -> None:
    named = re.findall(r"`(hyvideo_\w+)`", section("The first video"))
    assert {name for name in WORKFLOWS if "_demo_" not in name} <= set(named)


def test_every_link_within_leads_somewhere() -> None:
    headings = re.findall(r"^#+ (.+)$", README, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([^)]+)\)", README)) <= anchors


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The pack's folder as far as the examples use it; the one native workflow has the toy model's files."""
    copies = tmp_path / "workflows" / "api"
    shutil.copytree(ROOT / "workflows" / "api", copies)
    native = "hyvideo_image_native_nodes"
    (copies / f"{native}.json").write_text(json.dumps(with_toy_files(native)), encoding="utf-8")
    return tmp_path


def ready(example: str, server: Server, workflow: str) -> str:
    """The example for this server and workflow; nothing else is changed."""
    address, name = "http://127.0.0.1:8188", "hyvideo_t2v.json"
    assert example.count(address) == example.count(name) == 1
    return example.replace(address, server.url).replace(name, f"{workflow}.json")


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONUTF8": "1", "no_proxy": "127.0.0.1"}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, encoding="utf-8", env=environment)


@pytest.mark.parametrize("workflow", ["hyvideo_demo_t2v", "hyvideo_image_native_nodes"])
def test_the_python_example_fetches_the_result_of_its_prompt(server: Server, folder: Path, workflow: str) -> None:
    done = run([sys.executable, "-c", ready(block("python"), server, workflow)], folder)
    assert done.returncode == 0, done.stderr
    name, subfolder = re.fullmatch(r"(\S+) \(on the server in output/(\S+)\)\n", done.stdout).groups()
    content = (folder / name).read_bytes()
    assert content == (server.output / subfolder / name).read_bytes()
    assert b"A red fox runs" in content  # saved files carry their workflow


def test_the_python_example_says_what_is_wrong_with_a_workflow(server: Server, folder: Path) -> None:
    done = run([sys.executable, "-c", ready(block("python"), server, "hyvideo_t2v")], folder)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    for file in (REAL.model, REAL.vae, REAL.llm, REAL.clip):
        assert re.search(rf"^node \d+ \(HyvLoad\w+\): .*{re.escape(file)}", done.stderr, re.MULTILINE), done.stderr


def test_the_python_example_ends_with_the_message_of_a_failed_run(server: Server, folder: Path) -> None:
    example = ready(block("python"), server, "hyvideo_demo_t2v").replace("A red fox", "A red fox " * 200)
    done = run([sys.executable, "-c", example], folder)
    assert done.returncode == 1
    assert re.match(r"HyvEncodePrompt: .*has room for 255", done.stderr), done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(shutil.which("curl") is None or shutil.which("bash") is None, reason="curl and bash are needed")
def test_the_curl_example_queues_a_run(server: Server, client: ComfyClient, folder: Path) -> None:
    done = run(["bash", "-c", ready(block("bash"), server, "hyvideo_demo_t2v")], folder)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert not answer["node_errors"]
    assert client.wait(answer["prompt_id"], timeout_s=120)["status"]["status_str"] == "success"
