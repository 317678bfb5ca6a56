"""The demo set's transformers, loaded and set up in different ways. ``Missing`` says why one cannot be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from quality_bench import Bench, t2v
from quality_files import existing

from cases import Missing
from hyvideo_core.attention import available
from hyvideo_core.model import DiT
from hyvideo_core.model.compiling import why_not_compile
from hyvideo_core.ops import fp8
from hyvideo_core.sampling_plan import head_groups
from hyvideo_core.weights import Lora, merge, set_fast_products

BF16 = torch.bfloat16


def undistilled(bench: Bench) -> DiT:
    """The transformer that needs true guidance."""
    return bench.load(bench.files.i2v)


def loaded(**options: Any) -> Callable[[Bench], DiT]:
    """The distilled transformer, loaded with these options of ``Bench.load``."""
    return lambda bench: bench.load(bench.files.t2v, **options)


def fast_fp8(bench: Bench) -> DiT:
    """Its products in fp8, where the device can."""
    if reason := fp8.why_not_fast(bench.device, BF16):
        raise Missing(reason)
    dit = bench.load(bench.files.t2v, dtype=BF16, storage="fp8")
    set_fast_products(dit, True)
    return dit


def with_setting(**settings: Any) -> Callable[[Bench], DiT]:
    """The distilled transformer with some of its attributes set."""

    def model(bench: Bench) -> DiT:
        dit = t2v(bench)
        for name, value in settings.items():
            setattr(dit, name, value)
        return dit

    return model


def in_head_groups(bench: Bench) -> DiT:
    """As many groups of heads as there may be."""
    dit = t2v(bench)
    dit.head_groups = head_groups(dit.config)[-1]
    if dit.head_groups == 1:
        raise Missing(f"the heads of this model are {dit.config.heads}, which makes no groups")
    return dit


def compiled(bench: Bench) -> DiT:
    """Compiled between the matrix products."""
    if reason := why_not_compile(bench.device):
        raise Missing(reason)
    return with_setting(compile_blocks=True)(bench)


def attending(name: str) -> Callable[[Bench], DiT]:
    """With the attention kernel of this name."""

    def model(bench: Bench) -> DiT:
        dit = t2v(bench)
        found = {report.name: report for report in available(bench.device, dit.dtype, dit.config.head_dim)}
        if not found[name].ok:
            raise Missing(found[name].reason)
        dit.attention = name
        return dit

    return model


def merged(bench: Bench) -> DiT:
    """The demo set's LoRA in the weights."""
    dit = t2v(bench)
    merge(dit, [Lora(existing(bench.files.lora))])
    return dit
