"""Loading a full-size fp8 file to the device: at the disk's speed, with host memory not above the file's size."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any

from card import Card
from loading import fp8, measured_in_subprocess, save_random
from scale import Scale

#: Host memory may exceed the file by this.
HEADROOM_BYTES = 1_000_000_000
#: "The disk's speed": as long as a plain read, and some.
SLOWER_GOAL = 1.1
READ_BYTES = 16 * 2**20

Result = dict[str, Any]


class Loading:
    """The row of loading; its file is written once and removed at the end."""

    def __init__(self, card: Card, scale: Scale) -> None:
        self._card, self._scale = card, scale

    def fp8_file(self) -> Result:
        """One row: a plain fp8 file (13 GB at the true size) to the device, beside a plain read of it."""
        with tempfile.TemporaryDirectory(prefix="hyvideo-loading-") as folder:
            path = save_random(Path(folder) / "fp8.safetensors", fp8(self._scale.dit))
            size = path.stat().st_size
            forget(path)
            start = time.perf_counter()
            _read(path)
            read_s = time.perf_counter() - start
            forget(path)
            found = measured_in_subprocess(path, "--device", self._card.device.type)
        checks = [
            ("host memory ≤ the file plus 1 GB", found["peak_rss_bytes"] <= size + HEADROOM_BYTES),
            ("at the disk's speed (≤ 1.1 × a plain read)", found["seconds"] <= SLOWER_GOAL * read_s),
        ]
        return {
            "seconds": round(found["seconds"], 2),
            "plain_read_s": round(read_s, 2),
            "file_gb": round(size / 1e9, 2),
            "host_peak_gb": round(found["peak_rss_bytes"] / 1e9, 2),
            "host_anonymous_gb": round(found["peak_anonymous_bytes"] / 1e9, 2),
            "goals": checks,
        }


def forget(path: Path) -> None:
    """Have the system drop the file from its cache, so that the next read is the disk's."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _read(path: Path) -> None:
    buffer = bytearray(READ_BYTES)
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass
