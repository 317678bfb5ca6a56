"""What a video is called: time, seed and prompt, as in the original, on any file system.

Source: HunyuanVideo ``sample_video.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from itertools import count
from pathlib import Path

#: What Windows refuses in names, beside what cannot be printed.
FORBIDDEN = frozenset('<>:"/\\|?*')
PROMPT_CHARACTERS = 100
#: File systems end at 255 bytes; the rest of the name, and a number, take less than 55.
PROMPT_BYTES = 200


def paths(folder: Path, time: datetime, seed: int, prompt: str) -> Iterator[Path]:
    """The path of a video, then those to take in turn if it is taken."""
    stem = f"{time:%Y-%m-%d-%H-%M-%S}_seed{seed}_{_shown(prompt)}"
    yield folder / f"{stem}.mp4"
    yield from (folder / f"{stem}_{number}.mp4" for number in count(2))


def _shown(prompt: str) -> str:
    """The beginning of the prompt without what a file name cannot hold."""
    words = " ".join(prompt.split())
    kept = "".join(c for c in words if c.isprintable() and c not in FORBIDDEN)[:PROMPT_CHARACTERS]
    return kept.encode()[:PROMPT_BYTES].decode(errors="ignore").strip()
