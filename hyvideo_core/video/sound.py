"""Sound for a video, as long as the video."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from hyvideo_core.errors import GeometryError

logger = logging.getLogger(__name__)

MAX_CHANNELS = 8
#: Samples that are written at once.
PART = 2**20
#: What is said about a length only where it is longer than that.
UNHEARD_S = 0.05


@dataclass(frozen=True)
class Sound:
    """Sound as samples [C, T] in −1…1; ``rate`` is samples a second."""

    samples: torch.Tensor
    rate: int

    def __post_init__(self) -> None:
        """Raises ``GeometryError`` for a shape or rate that is no sound."""
        shape = tuple(self.samples.shape)
        if len(shape) != 2 or not 1 <= shape[0] <= MAX_CHANNELS or self.rate < 1:
            raise GeometryError(
                f"audio has {self.rate} samples a second and the shape {shape}, but must have a positive rate and "
                f"the shape [channels, samples] with 1 to {MAX_CHANNELS} channels. Connect an audio of ComfyUI's."
            )

    def write(self, path: Path, seconds: float) -> None:
        """Interleaved float32 samples of exactly ``seconds``: cut, or silent at the end."""
        wanted = round(seconds * self.rate)
        given = self.samples.shape[1]
        if abs(given - wanted) > UNHEARD_S * self.rate:
            how = "its end is cut" if given > wanted else "silence is added at the end"
            logger.info("audio of %.2f s for a video of %.2f s: %s", given / self.rate, seconds, how)
        with path.open("wb") as file:
            for part in self._parts(wanted):
                file.write(part.T.contiguous().numpy().astype("<f4").tobytes())

    def _parts(self, wanted: int) -> Iterator[torch.Tensor]:
        channels, given = self.samples.shape
        for start in range(0, wanted, PART):
            length = min(PART, wanted - start)
            part = torch.zeros(channels, length)
            heard = max(0, min(length, given - start))
            part[:, :heard] = self.samples[:, start : start + heard].to("cpu", torch.float32).nan_to_num(0.0)
            yield part
