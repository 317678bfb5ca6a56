"""The few plain values that every stage shares. Frozen, free of torch modules, safe to hash and compare.

Shape legend of the whole library: B batch, C channels, T frames, H height, W width, L tokens, N heads, D dim.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hyvideo_core.errors import GeometryError

SPATIAL_COMPRESSION = 8
TEMPORAL_COMPRESSION = 4
PATCH = 2
SIZE_STEP_PX = SPATIAL_COMPRESSION * PATCH


@dataclass(frozen=True)
class Geometry:
    """Size of a clip in pixels and frames, checked to be one the model can represent.

    ``width`` and ``height`` are multiples of 16 (VAE 8, patch 2); ``frames`` is 4n+1 (causal VAE).
    Raises ``GeometryError`` naming the field and the nearest valid values.
    """

    width: int
    height: int
    frames: int = 1

    def __post_init__(self) -> None:
        for name in ("width", "height"):
            value = getattr(self, name)
            if value < SIZE_STEP_PX or value % SIZE_STEP_PX:
                lower = max(SIZE_STEP_PX, value // SIZE_STEP_PX * SIZE_STEP_PX)
                raise GeometryError(
                    f"{name} is {value} px, but must be a multiple of {SIZE_STEP_PX} px "
                    f"(8 for the VAE, 2 for the patch). Use {lower} or {lower + SIZE_STEP_PX}."
                )
        if self.frames < 1 or self.frames % TEMPORAL_COMPRESSION != 1:
            lower = max(1, (self.frames - 1) // TEMPORAL_COMPRESSION * TEMPORAL_COMPRESSION + 1)
            raise GeometryError(
                f"frames is {self.frames}, but must be 4n+1 (1, 5, 9 … 129), since the VAE codes the first "
                f"frame alone and then groups of four. Use {lower} or {lower + TEMPORAL_COMPRESSION}."
            )

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(T, H, W) of the latent."""
        return (
            (self.frames - 1) // TEMPORAL_COMPRESSION + 1,
            self.height // SPATIAL_COMPRESSION,
            self.width // SPATIAL_COMPRESSION,
        )

    @property
    def tokens(self) -> int:
        """Video tokens the transformer sees."""
        t, h, w = self.latent_shape
        return t * (h // PATCH) * (w // PATCH)


@dataclass(frozen=True)
class Conditioning:
    """An encoded prompt.

    ``text`` [B, L, text_dim] with its right-padded ``text_mask`` [B, L] (1 valid, 0 padding; None means
    all valid), and ``pooled`` [B, pooled_dim].
    """

    text: torch.Tensor
    pooled: torch.Tensor
    text_mask: torch.Tensor | None = None

    def to(self, device: torch.device | str) -> Conditioning:
        """The same conditioning on another device."""
        mask = None if self.text_mask is None else self.text_mask.to(device)
        return Conditioning(self.text.to(device), self.pooled.to(device), mask)


@dataclass(frozen=True)
class Interval:
    """A part of the sampling run as fractions of its steps: ``start`` inclusive, ``end`` exclusive, 0–1."""

    start: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.start <= self.end <= 1.0:
            raise ValueError(
                f"interval is [{self.start}, {self.end}], but must satisfy 0 ≤ start ≤ end ≤ 1. "
                "Swap the two values or bring them into that range."
            )

    def contains(self, step: int, steps: int) -> bool:
        """Whether step number ``step`` (from 0) of ``steps`` lies inside."""
        return self.start <= step / steps < self.end
