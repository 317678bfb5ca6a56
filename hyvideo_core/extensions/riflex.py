"""RIFLEx: videos longer than those trained on, without beginning again after some seconds.

Of the frequencies of time in the table of positions one has a period of about the length at which videos repeat. It is
lowered so that the whole video stays within nine tenths of one period; all others stay as they are.

Source: arXiv 2502.15894, eq. 8, and its code ``riflex_utils.py`` (the 0.9; k = 4 for HunyuanVideo); the threshold
of 192 frames is that of HunyuanVideo-I2V ``hyvideo/inference.py`` (get_rotary_pos_embed). The paper's code begins above
197 frames instead, and the I2V code raises k with the length, k = 2 + (frames + 3)//100 within 4 to 8, which lowers
other frequencies from 297 frames on; both agree with k = 4 below that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from hyvideo_core.configs import DiTConfig
from hyvideo_core.model.dit import Rope
from hyvideo_core.sample.seams import Extension
from hyvideo_core.types import TEMPORAL_COMPRESSION

#: The part of one period that a video may take: some repeat a little earlier than the paper's theory says.
SAFE_PART = 0.9


@dataclass(frozen=True)
class Riflex(Extension):
    """Lowers the intrinsic frequency number ``k`` (from 1) for what is evaluated in more than ``above_frames`` frames.

    Frames are those of the video, not of the latent; 0 is always. With context windows the frames of a window count.
    """

    #: Nothing else changes the table of positions, and what evaluates windows is outside of it in any case.
    rank: ClassVar[int] = 0
    k: int = 4
    above_frames: int = 192

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"k is {self.k}, but frequencies are counted from 1. Use 4, which is HunyuanVideo's.")
        if self.above_frames < 0:
            raise ValueError(f"above_frames is {self.above_frames}, but must be 0 (always) or more; 192 is usual.")

    def outside(self, config: DiTConfig) -> DiTConfig:
        """The same configuration. Raises ``ValueError`` for a k that such a transformer does not have."""
        count = config.rope_dims[0] // 2
        if self.k > count:
            raise ValueError(f"k is {self.k}, but this transformer has {count} frequencies of time. Use 1 to {count}.")
        return config

    def wrap_rope(self, inner: Rope, state: Any) -> Rope:
        """The table with the one column of the intrinsic frequency made anew."""

        def rope(
            grid: tuple[int, int, int], dims: tuple[int, int, int], theta: float, device: torch.device
        ) -> torch.Tensor:
            table = inner(grid, dims, theta, device)
            frames = (grid[0] - 1) * TEMPORAL_COMPRESSION + 1
            if frames <= self.above_frames:
                return table
            positions = torch.arange(grid[0], dtype=torch.float32, device=device)
            angle = positions * (SAFE_PART * 2 * math.pi / grid[0])
            column = torch.polar(torch.ones_like(angle), angle).repeat_interleave(grid[1] * grid[2])
            table = table.clone()  # whoever made it may keep it
            table[:, self.k - 1] = column
            return table

        return rope
