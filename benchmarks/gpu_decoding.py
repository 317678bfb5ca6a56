"""VAE decoding at the true size: tiles as the original's and as planned for 4 GB, diffusers' tiles beside them.

Frames leave the device as they are finished, as they do on their way to an mp4; the peak is the device's.
"""

from __future__ import annotations

from typing import Any

import torch
from card import Card
from scale import GOAL_SIZE, Scale
from torch import nn

from hyvideo_core.decoding_plan import choose_tiling, vae_activation_bytes
from hyvideo_core.vae import VAE, Tiling

#: Decoding 720×1280×129 shall take less, weights included.
PEAK_GOAL_BYTES = 4_000_000_000
#: Work of the original's tiling at 720×1280×129, and the arithmetic an H200-class card does (MODEL.md).
TILED_TFLOP, CARD_TFLOP_PER_S = 4243, 788
#: How much longer than that floor it may take.
FLOOR_GOAL = 2.0

Result = dict[str, Any]


class Decoding:
    """Rows of decoding; one VAE lives on the device at a time."""

    def __init__(self, card: Card, scale: Scale) -> None:
        self._card, self._scale = card, scale
        self._vae: tuple[str, Any] | None = None
        self._seconds: dict[str, float] = {}

    def ours(self, size: str, tiles: str) -> Result:
        """One row: ``tiles`` are the "original"'s or those "planned" for the goal's memory."""
        vae = self._made("ours")
        dtype = next(vae.parameters()).dtype
        weights_bytes = sum(p.nbytes for p in vae.parameters())
        latent = self._latent(size, dtype)
        shape = self._scale.sizes[size].latent_shape
        tiling = Tiling.original(vae.config)
        if tiles == "planned":
            tiling = choose_tiling(vae.config, shape, dtype.itemsize, PEAK_GOAL_BYTES - weights_bytes)
        predicted = weights_bytes + vae_activation_bytes(
            shape, tiling.tile_size_px, tiling.tile_frames, dtype.itemsize, vae.config
        )

        def decode() -> None:
            # Drained one by one: a part is gone from the device before the next is asked for.
            for part in vae.decode_frames(latent, tiling):
                part.to("cpu")
                del part

        result = self._timed(decode)
        self._seconds[size] = result["seconds"]
        difference = 100 * (predicted / 1e9 / result["peak_gb"] - 1)
        checks = [("predicted peak 0 to 7 % above measured", 0 <= difference <= 7)]
        if size == GOAL_SIZE and tiles == "planned":
            checks.append(("peak under 4 GB", result["peak_gb"] * 1e9 < PEAK_GOAL_BYTES))
        if size == GOAL_SIZE and tiles == "original":
            allowed = FLOOR_GOAL * TILED_TFLOP / CARD_TFLOP_PER_S
            checks.append((f"≤ {allowed:.1f} s on an H200-class card (2 × the floor)", result["seconds"] <= allowed))
        return result | {
            "predicted_gb": round(predicted / 1e9, 2),
            "difference_percent": round(difference, 1),
            "tiles": f"{tiling.tile_size_px} px, {tiling.tile_frames} frames",
            "goals": checks,
        }

    def diffusers(self, size: str) -> Result:
        """One row: diffusers' VAE with its tiling, the whole video moved to the host at the end."""
        vae = self._made("diffusers")
        latent = self._latent(size, next(vae.parameters()).dtype)
        result = self._timed(lambda: vae.decode(latent, return_dict=False)[0].to("cpu"))
        if size in self._seconds:
            result["times_ours"] = round(result["seconds"] / self._seconds[size], 2)
        return result

    def release(self) -> None:
        """Have nothing on the device."""
        self._vae = None
        self._card.empty()

    def _made(self, whose: str) -> Any:
        if self._vae is None or self._vae[0] != whose:
            self.release()
            dtype = torch.bfloat16 if self._scale.is_true else torch.float32
            module = VAE(self._scale.vae) if whose == "ours" else self._diffusers_vae()
            self._vae = whose, _random(module, self._card.device, dtype)
        return self._vae[1]

    def _diffusers_vae(self) -> nn.Module:
        from diffusers import AutoencoderKLHunyuanVideo

        config = self._scale.vae
        made = AutoencoderKLHunyuanVideo(
            block_out_channels=config.block_out_channels, norm_num_groups=config.norm_groups
        )
        made.enable_tiling()
        return made

    def _latent(self, size: str, dtype: torch.dtype) -> torch.Tensor:
        shape = (1, self._scale.vae.latent_channels, *self._scale.sizes[size].latent_shape)
        return torch.randn(shape, device=self._card.device, dtype=dtype)

    def _timed(self, work: Any) -> Result:
        with torch.inference_mode():
            # The first run chooses convolution kernels.
            first = self._card.seconds(work)
            self._card.empty()
            self._card.reset_peak()
            seconds = self._card.seconds(work)
        return {
            "seconds": round(seconds, 3),
            "first_s": round(first, 3),
            "rounds": 1,
            "peak_gb": round(self._card.peak_bytes() / 1e9, 3),
            "reserved_gb": round(self._card.reserved_bytes() / 1e9, 3),
        }


def _random(module: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """Small random weights: values do not matter, only that they are there."""
    module = module.to(device, dtype).eval().requires_grad_(False)
    for parameter in module.parameters():
        parameter.normal_(std=0.02)
    return module
