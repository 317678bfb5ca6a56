"""Saved pictures as a VIDEO for ComfyUI's own nodes, whose reader of files does not know them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fractions import Fraction
from itertools import repeat
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from comfy_api.latest import Input, InputImpl, Types
from PIL import Image as Pillow
from PIL import ImageSequence

from hyvideo_core.video.writer import exact_rate


class PicturesVideo(Input.Video):
    """A folder of PNG files or a moving WebP, read when it is asked for, with the sound that was given."""

    def __init__(self, path: Path, fps: float, count: int, audio: Mapping[str, Any] | None = None) -> None:
        """``count`` frames were saved, of which a WebP keeps equal neighbours as one."""
        self._path, self._rate, self._count, self._audio = path, exact_rate(fps), count, audio

    @staticmethod
    def reads(path: Path) -> bool:
        """Whether it is for this class: other files are for the host's own."""
        return path.is_dir() or path.suffix == ".webp"

    def get_components(self) -> Types.VideoComponents:
        """All images, in memory."""
        images = torch.stack([torch.from_numpy(image) for image in self._images()])
        return Types.VideoComponents(images=images, audio=self._audio, frame_rate=self._rate)

    def get_frame_count(self) -> int:
        """How many there are."""
        return self._count

    def get_frame_rate(self) -> Fraction:
        """Frames a second."""
        return self._rate

    def save_to(self, *arguments: Any, **settings: Any) -> None:
        """As the host saves images."""
        self._of_images().save_to(*arguments, **settings)

    def as_trimmed(self, *arguments: Any, **settings: Any) -> Input.Video | None:
        """As the host trims images."""
        return self._of_images().as_trimmed(*arguments, **settings)

    def _of_images(self) -> Input.Video:
        return InputImpl.VideoFromComponents(self.get_components())

    def _images(self) -> Iterator[np.ndarray]:
        """Images [H, W, 3] in 0–1."""
        if self._path.is_dir():
            for picture in sorted(self._path.glob("frame_*.png")):
                # Pillow reads only the upper half of 16 bits.
                with av.open(str(picture)) as container:
                    found = next(container.decode(video=0)).to_ndarray()
                yield found.astype(np.float32) / np.iinfo(found.dtype).max
        else:
            yield from self._moving()

    def _moving(self) -> Iterator[np.ndarray]:
        """A picture that is shown for the time of several frames stands for all of them; a still for the whole."""
        end_ms, given = 0, 0
        with Pillow.open(self._path) as moving:
            for found in ImageSequence.Iterator(moving):
                image = np.asarray(found.convert("RGB"), np.float32) / 255
                end_ms += found.info.get("duration", 0)
                until = max(given + 1, round(end_ms * self._rate / 1000))
                yield from repeat(image, until - given)
                given = until
        yield from repeat(image, self._count - given)
