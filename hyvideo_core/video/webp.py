"""Text inside a WebP file, where ComfyUI's frontend looks for a workflow. Source: RFC 9649, section 2.7."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

#: The flag of a file that has an EXIF chunk.
HAS_EXIF = 0x08
#: Tags that ComfyUI uses: the prompt's is Model, those of the others go down from Make.
PROMPT_TAG, OTHER_TAG = 0x0110, 0x010F
ASCII = 2
HEADER = struct.Struct("<4sI")


def add_text(path: Path, text: Mapping[str, str], width_px: int, height_px: int) -> None:
    """Add ``text`` to the file as EXIF."""
    data = path.read_bytes()
    chunks = [(kind, content) for kind, content in _chunks(data) if kind != b"EXIF"]
    if chunks[0][0] != b"VP8X":
        size = (width_px - 1).to_bytes(3, "little") + (height_px - 1).to_bytes(3, "little")
        chunks.insert(0, (b"VP8X", bytes(4) + size))
    extended = bytearray(chunks[0][1])
    extended[0] |= HAS_EXIF
    chunks[0] = (b"VP8X", bytes(extended))
    chunks.append((b"EXIF", exif(text)))
    body = b"WEBP" + b"".join(map(_packed, *zip(*chunks, strict=True)))
    path.write_bytes(HEADER.pack(b"RIFF", len(body)) + body)


def exif(text: Mapping[str, str]) -> bytes:
    """``key:value`` strings under the tags that ComfyUI uses."""
    others = [f"{key}:{value}" for key, value in text.items() if key != "prompt"]
    tagged = {OTHER_TAG - place: line for place, line in enumerate(others)}
    if "prompt" in text:
        tagged[PROMPT_TAG] = f"prompt:{text['prompt']}"
    start = 8 + 2 + 12 * len(tagged) + 4
    entries, strings = b"", b""
    for tag, line in sorted(tagged.items()):
        value = line.encode("utf-8") + b"\0"
        entries += struct.pack("<HHII", tag, ASCII, len(value), start + len(strings))
        strings += value + bytes(len(value) % 2)
    return b"II*\0" + struct.pack("<IH", 8, len(tagged)) + entries + bytes(4) + strings


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    place = 12
    while place + HEADER.size <= len(data):
        kind, length = HEADER.unpack_from(data, place)
        yield kind, data[place + HEADER.size : place + HEADER.size + length]
        place += HEADER.size + length + length % 2


def _packed(kind: bytes, content: bytes) -> bytes:
    return HEADER.pack(kind, len(content)) + content + bytes(len(content) % 2)
