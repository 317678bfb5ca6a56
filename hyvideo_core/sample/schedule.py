"""The flow-matching schedule, and where along it a run begins.

Source: HunyuanVideo ``hyvideo/diffusion/schedulers/scheduling_flow_match_discrete.py``;
SD3 (arXiv 2403.03206) §5.3.2 for the shift.
"""

from __future__ import annotations

import torch

#: σ in 0–1 times this is the transformer's timestep.
TIMESTEP_SCALE = 1000.0


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
    return sigmas if reverse else 1 - sigmas


def partial_sigmas(steps: int, shift: float, denoise: float) -> torch.Tensor:
    """The last ``steps`` levels of a longer schedule, so that only ``denoise`` (0–1] of the way is run.

    1.0 is the whole schedule. Raises ``ValueError`` outside (0, 1].
    """
    if not 0 < denoise <= 1:
        raise ValueError(f"denoise is {denoise}, but must be greater than 0 and at most 1 (1 starts from pure noise).")
    # As the host counts, but safe from 7 / 0.07 being a hair below 100.
    return flow_sigmas(int(steps / denoise + 1e-9), shift)[-(steps + 1) :]


def noised(latent: torch.Tensor, noise: torch.Tensor, sigma: float) -> torch.Tensor:
    """A clean latent brought to noise level σ: (1 − σ)·latent + σ·noise."""
    return (1 - sigma) * latent + sigma * noise
