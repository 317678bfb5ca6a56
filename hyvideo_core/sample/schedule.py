"""The flow-matching schedule, and where along it a run begins.

Source: HunyuanVideo ``hyvideo/diffusion/schedulers/scheduling_flow_match_discrete.py``;
SD3 (arXiv 2403.03206) §5.3.2 for the shift.
"""

from __future__ import annotations

import math

import torch

#: σ in 0–1 times this is the transformer's timestep.
TIMESTEP_SCALE = 1000.0
#: Where ``shift_for`` is pinned: FLUX's lower end, an image of 256 px, and the longest video that HunyuanVideo was
#: published for, 720 × 1280 × 129, with its shift 7.
BASE_TOKENS, BASE_SHIFT = 256, 0.5
MAX_TOKENS, MAX_SHIFT = 118_800, math.log(7)


def flow_sigmas(steps: int, shift: float, reverse: bool = True) -> torch.Tensor:
    """Noise levels [steps + 1] in float32: shift·s / (1 + (shift − 1)·s) for s from 1 to 0.

    ``reverse`` True runs σ from 1 (noise) to 0, as everybody does; False gives 1 − σ, the other direction of
    time. Raises ``ValueError`` for fewer than one step or a shift that is not positive.
    """
    if steps < 1:
        raise ValueError(f"steps is {steps}, but at least 1 is needed.")
    if not shift > 0:
        raise ValueError(f"shift is {shift}, but must be greater than 0 (7 is the default, 17 for Fast checkpoints).")
    s = torch.linspace(1, 0, steps + 1)
    sigmas = shift * s / (1 + (shift - 1) * s)
    sigmas[0] = 1  # For some shifts it is a rounding above or below, and noise is pure only at 1.
    return sigmas if reverse else 1 - sigmas


def partial_sigmas(steps: int, shift: float, denoise: float) -> torch.Tensor:
    """The last ``steps`` levels of a longer schedule, so that only ``denoise`` (0–1] of the way is run.

    1.0 is the whole schedule. Raises ``ValueError`` outside (0, 1].
    """
    if not 0 < denoise <= 1:
        raise ValueError(f"denoise is {denoise}, but must be greater than 0 and at most 1 (1 starts from pure noise).")
    # As the host counts, but safe from 7 / 0.07 being a hair below 100.
    return flow_sigmas(int(steps / denoise + 1e-9), shift)[-(steps + 1) :]


def shift_for(tokens: int, base_shift: float = BASE_SHIFT, max_shift: float = MAX_SHIFT) -> float:
    """A shift for a video of so many tokens (``Geometry.tokens``): a smaller one is hidden by less noise.

    It is e^μ, where μ lies on a straight line through ``base_shift`` at 256 tokens and ``max_shift`` at 118,800; the
    line goes on beyond both. HunyuanVideo itself was published with shift 7 for every size, which ``max_shift`` keeps
    for its largest; 544 × 960 × 129 then has 3.7, and diffusers advises 2 to 5 for small sizes.

    Source: black-forest-labs/flux ``sampling.py`` (get_schedule: 0.5 at 256 tokens, 1.15 at 4096); diffusers'
    documentation of HunyuanVideo for the advice. SD3, arXiv 2403.03206 §5.3.2, has the root of the tokens instead.
    Raises ``ValueError`` for less than one token.
    """
    if tokens < 1:
        raise ValueError(f"tokens is {tokens}, but a video has at least 1.")
    share = (tokens - BASE_TOKENS) / (MAX_TOKENS - BASE_TOKENS)
    return math.exp(base_shift + share * (max_shift - base_shift))


def falls(sigmas: torch.Tensor) -> bool:
    """Whether levels [steps + 1] go from noise to clean, each below the one before."""
    return bool((sigmas.diff() < 0).all())


def noised(latent: torch.Tensor, noise: torch.Tensor, sigma: float) -> torch.Tensor:
    """A clean latent brought to noise level σ: (1 − σ)·latent + σ·noise."""
    return (1 - sigma) * latent + sigma * noise
