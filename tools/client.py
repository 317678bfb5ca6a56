"""ComfyUI's HTTP and websocket interface as a small client with readable errors, for tests and tools.

It loses no event and survives a dropped socket. What users copy is one short file: ``workflows/api/client.py``.
"""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Json = dict[str, Any]

HTTP_TIMEOUT_S = 60.0
POLL_S = 1.0
RECONNECT_S = 0.5
FINAL_EVENTS = ("execution_success", "execution_error", "execution_interrupted")


class ComfyError(Exception):
    """The server refused a request or cannot be reached; ``status`` is the HTTP status, 0 without an answer."""

    def __init__(self, message: str, status: int = 0, body: Any = None) -> None:
        super().__init__(message)
        self.status = status
        self.body = body


class PromptRejected(ComfyError):
    """A workflow that did not pass the server's validation; ``node_errors`` as the server sent them."""

    @property
    def node_errors(self) -> Json:
        """Errors by node id."""
        return dict(self.body.get("node_errors") or {})


class ExecutionFailed(ComfyError):
    """A node raised while the workflow ran, or the run was interrupted; ``event`` holds the server's report."""

    def __init__(self, event: Event) -> None:
        data = event.data
        if event.type == "execution_interrupted":
            text = f"interrupted in node {data.get('node_id')} ({data.get('node_type')})"
        else:
            text = (
                f"node {data.get('node_id')} ({data.get('node_type')}) failed: "
                f"{data.get('exception_type')}: {str(data.get('exception_message')).strip()}"
            )
        super().__init__(text, body=data)
        self.event = event


@dataclass(frozen=True)
class Event:
    """One websocket message."""

    type: str
    data: Json

    @property
    def is_final(self) -> bool:
        """Whether the run ended with it."""
        return self.type in FINAL_EVENTS


class ComfyClient:
    """A client of one server. Not for use by several threads at once; make one for each."""

    def __init__(self, base_url: str, client_id: str | None = None) -> None:
        self.base_url = base_url.rstrip("/")
        self.client_id = client_id or uuid.uuid4().hex
        self._socket: Any = None
        self._waiting: dict[str, deque[Event]] = {}

    def __enter__(self) -> ComfyClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the websocket; the client may be used again."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    # Requests

    def system_stats(self) -> Json:
        """Versions, memory and devices."""
        return self.get("/system_stats")

    def object_info(self, node: str | None = None) -> Json:
        """The schema of one node class, or of all."""
        return self.get(f"/object_info/{urllib.parse.quote(node)}" if node else "/object_info")

    def history(self, prompt_id: str) -> Json | None:
        """The record of a finished run; None while it waits or runs."""
        return self.get(f"/history/{prompt_id}").get(prompt_id)

    def queue_state(self) -> Json:
        """Running and waiting runs."""
        return self.get("/queue")

    def interrupt(self, prompt_id: str | None = None) -> None:
        """Stop the given run if it is running, or whichever is."""
        self.post("/interrupt", {"prompt_id": prompt_id} if prompt_id else {})

    def free(self, *, unload_models: bool = True, free_memory: bool = True) -> None:
        """Ask for models to be unloaded and cached outputs dropped; done by the server when it is idle."""
        self.post("/free", {"unload_models": unload_models, "free_memory": free_memory})

    def upload(self, path: Path, *, folder: str = "input", overwrite: bool = True) -> str:
        """Upload any file to ``input``, ``temp`` or ``output`` and return the name to use in a workflow."""
        boundary = uuid.uuid4().hex
        fields = {"type": folder, "overwrite": str(overwrite).lower()}
        parts = [
            f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
            for name, value in fields.items()
        ]
        disposition = f'Content-Disposition: form-data; name="image"; filename="{path.name}"'
        parts.append(f"--{boundary}\r\n{disposition}\r\nContent-Type: application/octet-stream\r\n\r\n".encode())
        parts += [path.read_bytes(), f"\r\n--{boundary}--\r\n".encode()]
        headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        stored = json.loads(self.request("/upload/image", b"".join(parts), headers))
        return "/".join(part for part in (stored["subfolder"], stored["name"]) if part)

    def view(self, file: Mapping[str, str]) -> bytes:
        """The bytes of a file as outputs name it: ``filename``, ``subfolder``, ``type``."""
        wanted = {key: file[key] for key in ("filename", "subfolder", "type") if key in file}
        return self.request(f"/view?{urllib.parse.urlencode(wanted)}")

    def queue(self, prompt: Json, **extra: Any) -> str:
        """Queue a workflow in API format and return its id; ``PromptRejected`` if it is not valid.

        ``extra`` goes into the request as it is (``front``, ``extra_data``, ``partial_execution_targets``).
        """
        self._connect()  # before queueing, so that no event of a fast run is missed
        body = {"prompt": prompt, "client_id": self.client_id, **extra}
        try:
            return str(self.post("/prompt", body)["prompt_id"])
        except ComfyError as error:
            if error.status == 400 and isinstance(error.body, dict):
                raise PromptRejected(describe_rejection(error.body, prompt), 400, error.body) from error
            raise

    # Following a run

    def follow(self, prompt_id: str, *, timeout_s: float | None = None) -> Iterator[Event]:
        """Yield the run's events up to and including its final one, after which ``history`` has its record.

        A dropped socket is opened again, and the history is asked for what was missed meanwhile.
        Raises ``ComfyError`` when the server is gone or ``timeout_s`` seconds passed.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            if deadline is not None and time.monotonic() > deadline:
                raise ComfyError(f"The run {prompt_id} did not end within {timeout_s:g} s.")
            event = self._next_event(prompt_id) or self._final_from_history(prompt_id)
            if event is None:
                continue
            if event.is_final:
                self._wait_for_record(prompt_id)
            yield event
            if event.is_final:
                self._waiting.pop(prompt_id, None)
                return

    def run(self, prompt: Json, *, timeout_s: float | None = None, **extra: Any) -> Json:
        """Queue a workflow, wait for its end, and return its history record; ``ExecutionFailed`` otherwise."""
        prompt_id = self.queue(prompt, **extra)
        return self.wait(prompt_id, timeout_s=timeout_s)

    def wait(self, prompt_id: str, *, timeout_s: float | None = None) -> Json:
        """Wait for the end of a queued run and return its history record; ``ExecutionFailed`` otherwise."""
        for event in self.follow(prompt_id, timeout_s=timeout_s):
            if event.is_final and event.type != "execution_success":
                raise ExecutionFailed(event)
        record = self.history(prompt_id)
        if record is None:
            raise ComfyError(f"The server has no record of the run {prompt_id}.")
        return record

    def _next_event(self, prompt_id: str) -> Event | None:
        """The run's next event; None after a silent second or a dropped socket."""
        import websocket

        waiting = self._waiting.setdefault(prompt_id, deque())
        if waiting:
            return waiting.popleft()
        while True:
            try:
                self._connect()
                message = self._socket.recv()
            except websocket.WebSocketTimeoutException:
                return None
            except (websocket.WebSocketException, OSError):
                self.close()
                time.sleep(RECONNECT_S)
                return None
            if not isinstance(message, str) or not message:
                continue  # binary previews
            content = json.loads(message)
            event = Event(content["type"], content.get("data") or {})
            owner = event.data.get("prompt_id", prompt_id)
            if owner == prompt_id:
                return event
            self._waiting.setdefault(owner, deque()).append(event)

    def _final_from_history(self, prompt_id: str) -> Event | None:
        """The run's final event as its record holds it; None unless the run ended and no event is waiting."""
        if self._waiting.get(prompt_id):
            return None
        record = self.history(prompt_id)
        if record is None:
            return None
        for kind, data in reversed(record["status"]["messages"]):
            if kind in FINAL_EVENTS:
                return Event(kind, data)
        return None

    def _wait_for_record(self, prompt_id: str) -> None:
        """The final event is sent a moment before the record is written."""
        deadline = time.monotonic() + HTTP_TIMEOUT_S
        while self.history(prompt_id) is None:
            if time.monotonic() > deadline:
                raise ComfyError(f"The run {prompt_id} ended, but the server wrote no record of it.")
            time.sleep(0.01)

    def _connect(self) -> None:
        if self._socket is None:
            import websocket

            address = self.base_url.replace("http", "ws", 1)
            try:
                self._socket = websocket.create_connection(
                    f"{address}/ws?clientId={self.client_id}", timeout=POLL_S, suppress_origin=True
                )
            except ConnectionRefusedError as error:
                raise ComfyError(f"No ComfyUI answers at {self.base_url}: {error}.") from error

    # HTTP

    def get(self, path: str) -> Json:
        """GET a JSON document."""
        return json.loads(self.request(path))

    def post(self, path: str, body: Json) -> Json:
        """POST a JSON document; an empty answer is an empty document."""
        answer = self.request(path, json.dumps(body).encode(), {"Content-Type": "application/json"})
        return json.loads(answer) if answer else {}

    def request(self, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None) -> bytes:
        """One HTTP request; ``ComfyError`` for any other answer than success."""
        request = urllib.request.Request(self.base_url + path, data=body, headers=dict(headers or {}))
        try:
            with LOOPBACK.open(request, timeout=HTTP_TIMEOUT_S) as answer:
                return bytes(answer.read())
        except urllib.error.HTTPError as error:
            text = error.read().decode(errors="replace")
            raise ComfyError(f"{path} answered {error.code}: {text[:500]}", error.code, parsed(text)) from error
        except (urllib.error.URLError, OSError) as error:
            reason = getattr(error, "reason", error)
            raise ComfyError(f"No ComfyUI answers at {self.base_url}: {reason}.") from error


#: A proxy set for the internet must not be asked for a server on this machine.
LOOPBACK = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def parsed(text: str) -> Any:
    """The JSON value of ``text``, or ``text`` itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def describe_rejection(body: Json, prompt: Json) -> str:
    """A validation failure as lines a person can act on: node, title, field, reason."""
    error = body.get("error") or {}
    general = error if isinstance(error, str) else f"{error.get('message', '')} {error.get('details', '')}"
    lines = [f"The workflow is not valid: {general.strip()}"]
    for node_id, node in (body.get("node_errors") or {}).items():
        title = prompt.get(node_id, {}).get("_meta", {}).get("title")
        name = f"{title} ({node['class_type']})" if title else node["class_type"]
        for item in node["errors"]:
            lines.append(f"  node {node_id}, {name}: {item['message']}: {item['details']}")
    return "\n".join(lines)
