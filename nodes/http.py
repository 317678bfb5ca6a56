"""What the pack's HTTP routes share: bodies that are read no further than they may be, and errors as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from aiohttp import web

from hyvideo_core.errors import HyVideoError


async def read_body(request: web.Request, most_bytes: int) -> bytes:
    """A request's body, whatever it says of its length. Raises ``HyVideoError`` for a longer one."""
    body = bytearray()
    async for chunk in request.content.iter_any():
        body += chunk
        if len(body) > most_bytes:
            raise HyVideoError(f"The request has more than {most_bytes} bytes.")
    return bytes(body)


def parsed(body: bytes) -> Any:
    """A body as JSON. Raises ``HyVideoError`` for what is none."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise HyVideoError(f"The request is not JSON ({error}).") from error


def words(error: Exception) -> str:
    """What an error says, without the folders of this machine."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{Path(error.filename).name}: {error.strerror}"
    return str(error)


def refused(reason: str, status: int = 400, **more: Any) -> web.Response:
    """The answer to a request that is wrong, and why."""
    return web.json_response({"error": reason, **more}, status=status)
