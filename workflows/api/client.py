"""Sends one of these workflows to a running ComfyUI, follows it, and downloads what it makes.

    python -m pip install websocket-client
    python workflows/api/client.py --workflow hyvideo_demo_t2v --prompt "a blue square growing on a black background"
    python workflows/api/client.py --workflow hyvideo_i2v --image photo.png --prompt "She waves both arms." --seed 7

One file to copy from: it needs nothing of this pack, and each function is one thing that ComfyUI offers to programs.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from pathlib import Path
from typing import Any

try:
    import websocket
except ModuleNotFoundError:
    sys.exit(f"websocket-client is missing. Install it with: {sys.executable} -m pip install websocket-client")

Json = dict[str, Any]

HERE = Path(__file__).resolve().parent
#: After so long without a word about the job the server is asked how it is.
SILENCE_S = 5.0
#: A job that has succeeded is on record after a moment; so long it is waited for.
RECORD_S = 30.0
PREVIEW = 1
SIGNATURES = {b"\xff\xd8": ".jpg", b"\x89P": ".png", b"RI": ".webp"}


class Failed(Exception):
    """A job did not begin or end well; of what the server refuses, the message is its own."""


def main() -> None:
    """One job from the command line; the exit status is 0, 1 for a failure, 2 for a bad argument, 130 after Ctrl-C."""
    arguments = parse()
    try:
        run(arguments)
    except Failed as error:
        sys.exit(str(error))
    except (OSError, ValueError, websocket.WebSocketException) as error:
        sys.exit(f"{arguments.server}: {error}")


def run(arguments: argparse.Namespace) -> None:
    """The whole of it. Raises ``Failed``, or ``OSError`` where no ComfyUI answers."""
    workflow = read(arguments.workflow)
    client_id = str(uuid.uuid4())
    address = arguments.server.replace("http", "ws", 1)
    # Before the job is queued, so that nothing of it is missed.
    socket = websocket.create_connection(f"{address}/ws?clientId={client_id}", timeout=60.0)
    socket.settimeout(1.0)
    try:
        image = arguments.image and upload(arguments.server, arguments.image)
        fill(workflow, arguments.prompt, image, arguments.seed)
        job = queue(arguments.server, workflow, client_id)
        try:
            follow(arguments.server, socket, job, workflow, arguments.output)
        except KeyboardInterrupt:
            request(arguments.server, f"/api/jobs/{job}/cancel", {})
            sys.exit(130)
    finally:
        socket.close()
    for path in download(arguments.server, job, arguments.output):
        print(path)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Run a workflow of this folder on a ComfyUI.")
    parser.add_argument("--server", default="http://127.0.0.1:8188", help="ComfyUI's address (default: %(default)s)")
    parser.add_argument("--workflow", default="hyvideo_t2v", help="a name in this folder (default: %(default)s)")
    parser.add_argument("--prompt", help="what to show (default: the workflow's)")
    parser.add_argument("--image", type=Path, help="an image to upload, for workflows with a node titled Image")
    parser.add_argument("--seed", type=int, help="seed of the noise (default: the workflow's)")
    parser.add_argument("--output", type=Path, default=Path(), help="folder of the results (default: this one)")
    arguments = parser.parse_args()
    if not arguments.server.startswith(("http://", "https://")):
        parser.error(f"argument --server: is '{arguments.server}', but must begin with http:// or https://")
    if arguments.image and not arguments.image.is_file():
        parser.error(f"argument --image: there is no file {arguments.image}")
    return arguments


def read(name: str) -> Json:
    """A workflow of this folder. Raises ``Failed`` if there is none of this name, or its file holds none."""
    path = HERE / f"{name}.json"
    if not path.is_file():
        names = ", ".join(sorted(each.stem for each in HERE.glob("*.json")))
        raise Failed(f"There is no {path}. Workflows are the .json files beside {Path(__file__).name}: {names}")
    try:
        workflow: Json = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise Failed(f"{path} holds no workflow ({error}). Export it again by File → Export (API).") from error
    return workflow


def upload(server: str, image: Path) -> str:
    """Put a file into ComfyUI's input folder; its name there, as LoadImage takes it."""
    boundary = uuid.uuid4().hex
    name = image.name.replace('"', "%22")
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n\r\n'
    body = head.encode() + image.read_bytes() + f"\r\n--{boundary}--\r\n".encode()
    stored = json.loads(request(server, "/upload/image", body, f"multipart/form-data; boundary={boundary}"))
    # Another file may have the name already; then the server chose a new one.
    return "/".join(part for part in (stored["subfolder"], stored["name"]) if part)


def fill(workflow: Json, prompt: str | None, image: str | None, seed: int | None) -> None:
    """Write the values into the nodes: which is which, their titles and inputs tell.

    Raises ``Failed`` for an image that no node takes.
    """
    if image is not None and all(node["_meta"]["title"] != "Image" for node in workflow.values()):
        raise Failed("This workflow has no node titled Image, so it takes no image. Leave --image out.")
    for node in workflow.values():
        inputs = node["inputs"]
        if prompt is not None and node["_meta"]["title"] == "Prompt":
            inputs["text" if "text" in inputs else "prompt"] = prompt
        if image is not None and node["_meta"]["title"] == "Image":
            # In hyvideo_demo_i2v other nodes draw the image; LoadImage has the same output.
            node["class_type"], node["inputs"] = "LoadImage", {"image": image}
        if seed is not None and "seed" in inputs:
            inputs["seed"] = seed


def queue(server: str, workflow: Json, client_id: str) -> str:
    """Queue the workflow and return the job's id. Raises ``Failed`` if the server finds a mistake in it."""
    # ComfyUI makes previews only for those who ask.
    wanted = {"prompt": workflow, "client_id": client_id, "extra_data": {"preview_method": "auto"}}
    try:
        return str(json.loads(request(server, "/prompt", wanted))["prompt_id"])
    except urllib.error.HTTPError as error:
        if error.code != 400:
            raise
        refusal = json.load(error)
    lines = [refusal["error"]["message"]]
    for number, node in refusal["node_errors"].items():
        name = title(workflow, number)
        lines += [f"node {number}, {name}: {reason['message']}: {reason['details']}" for reason in node["errors"]]
    raise Failed("\n".join(lines))


def follow(server: str, socket: websocket.WebSocket, job: str, workflow: Json, folder: Path) -> None:
    """Show the job's progress until it has succeeded; previews go to ``folder``.

    Raises ``Failed`` if a node fails, or if somebody interrupts or cancels the job.
    """
    heard = time.monotonic()
    while True:
        if time.monotonic() - heard > SILENCE_S:
            if has_ended(server, job, workflow):
                return
            heard = time.monotonic()
        try:
            message = socket.recv()
        except websocket.WebSocketTimeoutException:
            continue
        if isinstance(message, bytes):
            save_preview(message, folder)
            continue
        event = json.loads(message)
        kind, data = event["type"], event["data"]
        if data.get("prompt_id") != job:
            continue  # another job's, or the queue's length
        heard = time.monotonic()
        if kind == "progress":
            print(f"{title(workflow, data['node'])}: {data['value']}/{data['max']}", file=sys.stderr)
        elif kind == "execution_error":
            raise failure(workflow, data)
        elif kind == "execution_interrupted":
            raise Failed(f"{title(workflow, data['node_id'])}: interrupted")
        elif kind == "execution_success":
            return


def title(workflow: Json, number: str) -> str:
    """What a node is called; a node that another one made while it ran is not in the workflow."""
    return str(workflow[number]["_meta"]["title"]) if number in workflow else f"node {number}"


def failure(workflow: Json, error: Json) -> Failed:
    """The exception for what the server tells of a node that failed."""
    return Failed(f"{title(workflow, error['node_id'])}: {error['exception_message'].strip()}")


def has_ended(server: str, job: str, workflow: Json) -> bool:
    """Whether the job has succeeded without our being told. Raises ``Failed`` if it has ended otherwise."""
    try:
        found = json.loads(request(server, f"/api/jobs/{job}"))
    except urllib.error.HTTPError as error:
        if error.code != 404:
            raise
        raise Failed("cancelled while it waited") from error  # no event tells of that
    if found["status"] == "failed":
        raise failure(workflow, found["execution_error"])
    if found["status"] == "cancelled":
        raise Failed("interrupted")
    return bool(found["status"] == "completed")


def save_preview(message: bytes, folder: Path) -> None:
    """Keep the newest preview as preview.jpg, .png or .webp: 8 bytes say what follows, then comes the image."""
    kind, image = int.from_bytes(message[:4], "big"), message[8:]
    if kind == PREVIEW and image[:2] in SIGNATURES:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"preview{SIGNATURES[image[:2]]}").write_bytes(image)


def download(server: str, job: str, folder: Path) -> list[Path]:
    """Fetch every file that the job has saved into ``folder``; where they are now."""
    folder.mkdir(parents=True, exist_ok=True)
    outputs = record(server, job)["outputs"]
    found = [file for output in outputs.values() for files in output.values() for file in files]
    paths = []
    for file in found:
        if isinstance(file, dict) and file.get("type") == "output":
            paths.append(folder / Path(file["filename"]).name)
            paths[-1].write_bytes(request(server, f"/view?{urllib.parse.urlencode(file)}"))
    return paths


def record(server: str, job: str) -> Json:
    """What the server keeps of a job that has succeeded. Raises ``Failed`` if it keeps nothing."""
    give_up = time.monotonic() + RECORD_S
    # Success is told a moment before there is a record.
    while job not in (history := json.loads(request(server, f"/history/{job}"))):
        if time.monotonic() > give_up:
            raise Failed(f"Job {job} succeeded, but {server} has no record of its files. Look in its output folder.")
        time.sleep(0.05)
    return dict(history[job])


def request(server: str, path: str, body: Json | bytes | None = None, kind: str = "application/json") -> bytes:
    """One HTTP request, a POST where there is a body. Raises ``urllib.error.HTTPError`` for a refusal."""
    data = json.dumps(body).encode() if isinstance(body, dict) else body
    question = urllib.request.Request(server + path, data, {"Content-Type": kind})
    with urllib.request.urlopen(question) as answer:
        return bytes(answer.read())


if __name__ == "__main__":
    main()
