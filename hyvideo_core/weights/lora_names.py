"""Which rows of which weight a name in a LoRA file means.

A LoRA names the layers as the trainer's model did: original, ComfyUI or diffusers names, with dots or, in kohya's
style, with underscores for dots. All are looked up with underscores, in one table made from the model's real names.

Source: prefixes as kohya's musubi-tuner, OneTrainer, PEFT and Tencent's trainer write them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from hyvideo_core.weights.keymaps import LAYERS, SWAPPED, numbered

#: What may stand before a layer's name, dots as underscores. Unlike a checkpoint's (``keymaps.PREFIXES``), they are the
#: trainers' own too, several may follow each other, and each key of a file may have others.
PREFIXES = (
    "lora_unet_",
    "lora_transformer_",
    "Hunyuan_video_I2V_lora_",
    "base_model_model_",
    "model_",
    "diffusion_model_",
    "transformer_",
    "module_",
)


@dataclass(frozen=True)
class Home:
    """``rows`` rows of ``module``'s weight from row ``start`` on; beyond the last they go on at the first."""

    module: str
    start: int
    rows: int


def homes(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Home]:
    """Every name a weight of the model may have in a LoRA file, dots as underscores.

    ``shapes``: original module name → shape [out, in, …] of its weight.
    """
    return {name.replace(".", "_"): home for module, shape in shapes.items() for name, home in _names(module, shape)}


def find_home(name: str, table: Mapping[str, Home]) -> Home | None:
    """Where the term of a layer called ``name`` in a LoRA file belongs; None if the model has no such layer."""
    name = name.replace(".", "_")
    if name in table:
        return table[name]
    rests = (name.removeprefix(prefix) for prefix in PREFIXES if name.startswith(prefix))
    return next((home for rest in rests if (home := find_home(rest, table)) is not None), None)


def _names(module: str, shape: tuple[int, ...]) -> Iterator[tuple[str, Home]]:
    rows, columns = shape[:2]
    general, number = numbered(module)
    host, parts = LAYERS.get(general, (general, ()))
    for name in (general, host):
        yield name.replace("#", number), Home(module, 0, rows)
    for place, part in enumerate(parts):  # each has as many rows as the weight has columns, the last the rest
        start = place * columns
        end = rows if part == parts[-1] else start + columns
        yield part.replace("#", number), Home(module, rows // 2 if module == SWAPPED else start, end - start)
