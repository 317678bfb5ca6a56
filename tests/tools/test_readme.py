"""What README and docs/ say can be done as it stands: their settings are the nodes', their examples run."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hyvideo_core.text import IMAGE, VIDEO
from tools.client import ComfyClient
from tools.paths import ROOT
from tools.server import Server
from tools.toy_model.workflows import with_toy_files
from tools.workflow_catalog import WORKFLOWS
from tools.workflow_graphs import REAL

PAGES = {path: path.read_text("utf-8") for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]}
README, GUIDE, API = (PAGES[ROOT / name] for name in ("README.md", "docs/guide.md", "docs/api.md"))


def section(page: str, title: str) -> str:
    """The text under a heading, up to the next of the same or a higher level."""
    level, rest = re.search(rf"^(#+) {re.escape(title)}\n(.*)", page, re.MULTILINE | re.DOTALL).groups()
    return re.split(rf"^#{{1,{len(level)}}} ", rest, maxsplit=1, flags=re.MULTILINE)[0]


def block(language: str) -> str:
    """The one example in this language among those for programs."""
    (text,) = re.findall(rf"```{language}\n(.*?)```", section(API, "For programs"), re.DOTALL)
    return text


def test_every_node_is_in_the_readme_or_the_guide(client: ComfyClient) -> None:
    """By its name, of which ``HyVideo`` is said once in an enumeration."""
    nodes = [node for node in client.object_info().values() if node["category"].startswith("HyVideo Studio")]
    unsaid = [
        node["display_name"] for node in nodes if node["display_name"].removeprefix("HyVideo ") not in README + GUIDE
    ]
    assert not unsaid


def test_the_limits_of_prompts_are_those_of_the_templates() -> None:
    # One token ends the prompt.
    rooms = [template.max_length - (template.crop_start or 0) - 1 for template in (VIDEO, IMAGE)]
    assert "at most {} tokens, some 190 words; {} with the template `image`".format(*rooms) in section(
        GUIDE, "Settings"
    )


def test_every_template_is_named() -> None:
    named = re.findall(r"`(hyvideo_\w+)`", section(README, "The first video"))
    assert {name for name in WORKFLOWS if "_demo_" not in name} <= set(named)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_link_to_a_file_or_a_heading_leads_somewhere(path: Path) -> None:
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", PAGES[path]):
        found = (path.parent / target).resolve() if target else path
        assert found.exists(), target
        assert not anchor or anchor in anchors(found), f"{target}#{anchor}"


def anchors(page: Path) -> set[str]:
    """The names of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


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
