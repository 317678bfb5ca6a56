"""From a prompt to an mp4 through a real ComfyUI, with the trained demo model of the pack."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from tools.client import ComfyClient, ComfyError, Event, ExecutionFailed, Json
from tools.console import ToolError, rewrite, step
from tools.paths import DEMO_BASE, WORKFLOWS
from tools.server import Server

BAR_WIDTH = 24
VIDEO_SUFFIXES = (".mp4", ".webm", ".mkv", ".mov")
SEED_INPUTS = ("seed", "noise_seed")
#: Which input of a node class holds the prompt.
PROMPT_INPUTS = {"HyvEncodePrompt": "prompt", "CLIPTextEncode": "text"}


def run(host: Path, prompt: str | None, workflow: str, output: Path, seed: int | None) -> int:
    """Make one video and print where it is; without ``prompt`` and ``seed`` those of the workflow hold."""
    graph = load_workflow(workflow)
    if prompt is not None:
        set_prompt(graph, prompt)
    if seed is not None:
        set_seed(graph, seed)
    server = Server(host, DEMO_BASE, output=output)
    try:
        with step("Starting ComfyUI"):
            server.start()
        with server.client() as client:
            record = follow(client, graph)
        print(finished_video(record, server.output))
    except ComfyError as error:
        raise ToolError(f"{error}\nThe server's log: {server.log}") from error
    finally:
        server.stop()
    return 0


def load_workflow(name: str) -> Json:
    """A workflow in API format by its name in ``workflows/api`` or by its path."""
    path = Path(name) if name.endswith(".json") else WORKFLOWS / f"{name}.json"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in WORKFLOWS.glob("*.json")))
        raise ToolError(f"There is no workflow {path}. Known names: {known or 'none'}.")
    try:
        graph = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ToolError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(graph, dict) or not all(map(is_node, graph.values())):
        raise ToolError(f"{path} is not a workflow in API format (export it with File → Export (API)).")
    return graph


def is_node(value: object) -> bool:
    """Whether this is a node of the API format."""
    return isinstance(value, dict) and "class_type" in value and isinstance(value.get("inputs"), dict)


def title(graph: Json, node_id: str) -> str:
    """What a node is called in the workflow."""
    node = graph.get(node_id, {})
    return str(node.get("_meta", {}).get("title") or node.get("class_type") or node_id)


def set_prompt(graph: Json, prompt: str) -> None:
    """Write the prompt into every prompt node except those titled as negative."""
    found = False
    for node_id, node in graph.items():
        name = PROMPT_INPUTS.get(node["class_type"])
        if name and "negative" not in title(graph, node_id).lower():
            node["inputs"][name] = prompt
            found = True
    if not found:
        raise ToolError(f"The workflow has no node that takes a prompt ({', '.join(PROMPT_INPUTS)}).")


def set_seed(graph: Json, seed: int) -> None:
    """Write the seed into every node that has one."""
    for node in graph.values():
        for name in SEED_INPUTS:
            if isinstance(node["inputs"].get(name), int):
                node["inputs"][name] = seed


def follow(client: ComfyClient, graph: Json) -> Json:
    """Queue the workflow, show its progress, and return the run's record."""
    prompt_id = client.queue(graph)
    live = sys.stdout.isatty()
    show = rewrite if live else partial(print, flush=True)
    for line in progress_lines(client.follow(prompt_id), graph, every_step=live):
        show(line)
    if live:
        print()
    return client.history(prompt_id) or {}


def progress_lines(events: Iterator[Event], graph: Json, *, every_step: bool) -> Iterator[str]:
    """What to show for a run's events: each node as it starts, its steps, and their seconds.

    Without ``every_step`` a node's steps give one line, the last. Raises ``ExecutionFailed`` at a failed end.
    """
    start = time.monotonic()
    first: dict[str, tuple[float, float]] = {}
    for event in events:
        if event.is_final:
            if event.type != "execution_success":
                raise ExecutionFailed(event)
            yield f"✓ Finished in {time.monotonic() - start:.1f} s"
        elif event.type == "executing" and event.data.get("node"):
            yield f"… {title(graph, str(event.data['node']))}"
        elif event.type == "progress":
            node, value, total = str(event.data["node"]), event.data["value"], event.data["max"]
            began, from_value = first.setdefault(node, (time.monotonic(), value))
            if not every_step and value < total:
                continue
            pace = (time.monotonic() - began) / (value - from_value) if value > from_value else None
            yield step_line(title(graph, node), int(value), int(total), pace)


def step_line(name: str, value: int, total: int, seconds_a_step: float | None) -> str:
    """A progress bar: name, bar, i/n, seconds a step."""
    filled = BAR_WIDTH * value // max(1, total)
    pace = "" if seconds_a_step is None else f"  {seconds_a_step:.2f} s/step"
    return f"… {name} [{'#' * filled}{'.' * (BAR_WIDTH - filled)}] {value}/{total}{pace}"


def finished_video(record: Json, output: Path) -> Path:
    """Path of the video among a run's outputs; any other file where the workflow makes no video."""
    files = [
        file
        for node in record.get("outputs", {}).values()
        for listed in node.values()
        if isinstance(listed, list)
        for file in listed
        if isinstance(file, dict) and file.get("type") == "output"
    ]
    files.sort(key=lambda file: not file["filename"].lower().endswith(VIDEO_SUFFIXES))
    if not files:
        raise ToolError("The workflow ran, but saved no file: it needs a node that saves its result.")
    return output / files[0].get("subfolder", "") / files[0]["filename"]
