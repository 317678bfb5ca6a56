"""Where ComfyUI's frontend (1.47) looks for a workflow in a file that is dropped on it, said again in Python.

It reads only the beginning of a video, takes a file by its suffix, and has a reader for each of these kinds alone.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ISOBMFF_BYTES = 64 * 2**20
WEBM_BYTES = 2 * 2**20


def embedded(path: Path) -> dict[str, Any]:
    """Prompt and workflow of the file, by name; empty for a kind the frontend does not read."""
    readers = {".mp4": _isobmff, ".mov": _isobmff, ".webm": _webm, ".webp": _webp, ".png": _png}
    found = readers[path.suffix](path.read_bytes()) if path.suffix in readers else {}
    return {name: value for name, value in found.items() if name in ("prompt", "workflow")}


def _box(data: bytes, kind: bytes) -> bytes:
    """The content of the first box of a kind."""
    place = 0
    while place + 8 <= len(data):
        size = int.from_bytes(data[place : place + 4], "big")
        if data[place + 4 : place + 8] == kind:
            return data[place + 8 : place + size]
        if size < 8 or place + size > len(data):
            break
        place += size
    raise AssertionError(f"no {kind!r} at the beginning of the file")


def _isobmff(data: bytes) -> dict[str, Any]:
    meta = _box(_box(_box(data[:ISOBMFF_BYTES], b"moov"), b"udta"), b"meta")[4:]
    keys, place = [], 8
    content = _box(meta, b"keys")
    while place < len(content):
        size = int.from_bytes(content[place : place + 4], "big")
        keys.append(content[place + 8 : place + size].decode())
        place += size
    found, items, place = {}, _box(meta, b"ilst"), 0
    while place + 8 < len(items):
        size, key = struct.unpack(">II", items[place : place + 8])
        value = _box(items[place + 8 : place + size], b"data")[8:]
        if value.startswith(b"{"):
            found[keys[key - 1]] = json.loads(value)
        place += size
    return found


def _webm(data: bytes) -> dict[str, Any]:
    """Names in capitals; a JSON object ends where its braces are even, also those in strings."""
    found, data = {}, data[:WEBM_BYTES]
    for name in ("PROMPT", "WORKFLOW"):
        tag = data.index(b"\x45\xa3", data.index(name.encode()) - 12)
        start = end = data.index(b"{", tag)
        depth = 0
        while not depth or data[start:end].count(b"{") > data[start:end].count(b"}"):
            end += 1
            depth = 1
        found[name.lower()] = json.loads(data[start:end])
    return found


def _riff(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    assert data[:4] == b"RIFF"
    assert data[8:12] == b"WEBP"
    place = 12
    while place < len(data):
        kind, size = struct.unpack("<4sI", data[place : place + 8])
        yield kind, data[place + 8 : place + 8 + size]
        place += 8 + size + size % 2


def _webp(data: bytes) -> dict[str, Any]:
    tiff = dict(_riff(data))[b"EXIF"]
    order = "<" if tiff[:2] == b"II" else ">"
    (start,) = struct.unpack(order + "I", tiff[4:8])
    (count,) = struct.unpack(order + "H", tiff[start : start + 2])
    found = {}
    for number in range(count):
        entry = start + 2 + 12 * number
        _, kind, length, place = struct.unpack(order + "HHII", tiff[entry : entry + 12])
        if kind == 2:
            name, _, value = tiff[place : place + length - 1].decode().partition(":")
            found[name] = json.loads(value)
    return found


def _png(data: bytes) -> dict[str, Any]:
    found, place = {}, 8
    while place < len(data):
        size, kind = struct.unpack(">I4s", data[place : place + 8])
        if kind == b"tEXt":
            name, _, value = data[place + 8 : place + 8 + size].partition(b"\0")
            found[name.decode()] = json.loads(value)
        place += 12 + size
    return found
