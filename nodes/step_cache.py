"""Caches that skip steps in which little changes, and what one of them needs to know of a checkpoint."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.latest import io

from hyvideo_core.errors import CheckpointError, HyVideoError
from hyvideo_core.extensions import EasyCache, FirstBlockCache, TeaCache, TeaCacheCalibration
from hyvideo_core.extensions.step_cache import DEVICES, StepCache
from hyvideo_core.extensions.tea_cache_calibration import fitted, note_pair, noted_pairs
from hyvideo_core.sample.seams import Extension

from . import models
from .handles import CATEGORY, FileVersion, ModelHandle, with_feature
from .length import interval, interval_inputs, model_input, model_output

SPEED = f"{CATEGORY}/speed"
#: The usual settings are those of the core.
TEA, FIRST_BLOCK, EASY = TeaCache(), FirstBlockCache(), EasyCache()
#: Where calibrations are kept, among the host's models: they belong to a checkpoint and outlive a session.
FOLDER = "hyvideo_teacache"
#: The coefficients that TeaCache's authors found.
PUBLISHED = "HunyuanVideo"
NODES: dict[type[Extension], str] = {
    TeaCache: "HyVideo TeaCache",
    FirstBlockCache: "HyVideo First-Block Cache",
    EasyCache: "HyVideo EasyCache",
    TeaCacheCalibration: "HyVideo TeaCache Calibration",
}

folder_paths.add_model_folder_path(FOLDER, str(Path(folder_paths.models_dir) / FOLDER))


class HyvTeaCache(io.ComfyNode):
    """TeaCache."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HyvTeaCache",
            display_name="HyVideo TeaCache",
            category=SPEED,
            description="Faster at some cost in quality: skips the model's blocks in steps whose input has changed "
            "little. The log tells how many steps were skipped.",
            search_aliases=["teacache", "HyVideoTeaCache", "cache", "speed", "skip steps"],
            inputs=[
                model_input(),
                _threshold_input(TEA, "0.1 and 0.15 are its authors' for HunyuanVideo"),
                io.Combo.Input(
                    "coefficients",
                    options=models.files(FOLDER, first=(PUBLISHED,)),
                    default=PUBLISHED,
                    optional=True,
                    tooltip="How the change of the input tells that of the result. HunyuanVideo: its authors' for the "
                    "original model. For a fine-tuned or few-step checkpoint choose what HyVideo TeaCache Calibration "
                    f"measured, from models/{FOLDER}; press R for new files. The threshold then means something else: "
                    "try it anew.",
                ),
                *_cache_inputs(TEA),
            ],
            outputs=[model_output()],
        )

    @classmethod
    def fingerprint_inputs(cls, coefficients: str = PUBLISHED, **_: Any) -> str:
        return PUBLISHED if coefficients == PUBLISHED else str(FileVersion.of(_calibration(coefficients)))

    @classmethod
    def execute(
        cls,
        model: ModelHandle,
        threshold: float,
        coefficients: str = PUBLISHED,
        warm_up: int = TEA.warm_up,
        last: int = TEA.last,
        device: str = TEA.device,
        start: float = TEA.when.start,
        end: float = TEA.when.end,
    ) -> io.NodeOutput:
        cache = TeaCache(
            threshold=threshold,
            coefficients=TEA.coefficients if coefficients == PUBLISHED else _measured(_calibration(coefficients)),
            warm_up=warm_up,
            last=last,
            device=device,
            when=interval(start, end),
        )
        return io.NodeOutput(_with_cache(model, cache))


class HyvFirstBlockCache(io.ComfyNode):
    """First-Block Cache."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HyvFirstBlockCache",
            display_name="HyVideo First-Block Cache",
            category=SPEED,
            description="Faster at some cost in quality: runs the model's first block in every step, and the others "
            "only where it says something new. Works for any checkpoint without calibration. The log tells how many "
            "steps were skipped.",
            search_aliases=["fbcache", "first block cache", "wavespeed", "ApplyFBCacheOnModel", "ParaAttention"],
            inputs=[
                model_input(),
                _threshold_input(FIRST_BLOCK, "0.06 is its authors' for HunyuanVideo"),
                *_cache_inputs(FIRST_BLOCK),
            ],
            outputs=[model_output()],
        )

    @classmethod
    def execute(
        cls,
        model: ModelHandle,
        threshold: float,
        warm_up: int = FIRST_BLOCK.warm_up,
        last: int = FIRST_BLOCK.last,
        device: str = FIRST_BLOCK.device,
        start: float = FIRST_BLOCK.when.start,
        end: float = FIRST_BLOCK.when.end,
    ) -> io.NodeOutput:
        cache = FirstBlockCache(
            threshold=threshold, warm_up=warm_up, last=last, device=device, when=interval(start, end)
        )
        return io.NodeOutput(_with_cache(model, cache))


class HyvEasyCache(io.ComfyNode):
    """EasyCache."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HyvEasyCache",
            display_name="HyVideo EasyCache",
            category=SPEED,
            description="Faster at some cost in quality: skips whole steps in which the result has been changing "
            "little. Learns from the run itself, so it needs no calibration, and keeps next to nothing in memory. The "
            "log tells how many steps were skipped.",
            search_aliases=["easycache", "easy cache", "lazy cache", "speed", "skip steps"],
            inputs=[
                model_input(),
                _threshold_input(EASY, "0.025 is its authors' for HunyuanVideo at 50 steps"),
                *_cache_inputs(EASY),
            ],
            outputs=[model_output()],
        )

    @classmethod
    def execute(
        cls,
        model: ModelHandle,
        threshold: float,
        warm_up: int = EASY.warm_up,
        last: int = EASY.last,
        device: str = EASY.device,
        start: float = EASY.when.start,
        end: float = EASY.when.end,
    ) -> io.NodeOutput:
        cache = EasyCache(threshold=threshold, warm_up=warm_up, last=last, device=device, when=interval(start, end))
        return io.NodeOutput(_with_cache(model, cache))


class HyvTeaCacheCalibration(io.ComfyNode):
    """Coefficients of TeaCache for a checkpoint that nobody measured."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HyvTeaCacheCalibration",
            display_name="HyVideo TeaCache Calibration",
            category=SPEED,
            description="Measures a checkpoint for HyVideo TeaCache while HyVideo Sampler makes a video, which stays "
            f"as it is. What is measured is written to models/{FOLDER}; then choose it as coefficients in HyVideo "
            "TeaCache, without this node.",
            search_aliases=["teacache coefficients", "calibrate teacache", "fine-tune"],
            inputs=[
                model_input(),
                io.String.Input(
                    "name",
                    default="",
                    optional=True,
                    tooltip="Name of the calibration; empty for the checkpoint's own. Each run adds to it, and several "
                    "prompts make it better: let them differ, with the steps, shift and size that you will use. To "
                    f"begin anew choose another name or delete the file in models/{FOLDER}.",
                ),
            ],
            outputs=[model_output()],
        )

    @classmethod
    def execute(cls, model: ModelHandle, name: str = "") -> io.NodeOutput:
        name = name.strip() or model.file.path.stem
        if Path(name).name != name or name.startswith(".") or "\\" in name:
            raise HyVideoError(
                f"name is '{name}', but must be the name of a file without folders. Use letters and digits, or leave "
                "it empty for the name of the checkpoint."
            )
        path = Path(folder_paths.get_folder_paths(FOLDER)[0]) / f"{name}.txt"
        return io.NodeOutput(_with_cache(model, TeaCacheCalibration(found=partial(note_pair, path))))


def _threshold_input(usual: StepCache, advice: str) -> io.Input:
    return io.Float.Input(
        "threshold",
        default=usual.threshold,
        min=0.0,
        max=10.0,
        step=0.001,
        tooltip=f"How much may change until the model is asked again: higher is faster and less faithful, 0 is off. "
        f"{advice}.",
    )


def _cache_inputs(usual: StepCache) -> list[io.Input]:
    """What all caches have in common."""
    ends = [
        ("warm_up", usual.warm_up, 1, "first", "More if the layout of the picture suffers"),
        ("last", usual.last, 0, "last", "More if fine detail suffers"),
    ]
    return [
        *(
            io.Int.Input(
                name,
                default=default,
                min=least,
                max=1000,
                advanced=True,
                optional=True,
                tooltip=f"How many of the {which} steps are never skipped. {advice}.",
            )
            for name, default, least, which, advice in ends
        ),
        io.Combo.Input(
            "device",
            options=list(DEVICES),
            default=usual.device,
            advanced=True,
            optional=True,
            tooltip="Where results are kept: beside the model, or in the computer's memory (cpu), which is slower and "
            "leaves room on the card.",
        ),
        *interval_inputs(usual.when),
    ]


def _with_cache(model: ModelHandle, cache: StepCache | TeaCacheCalibration) -> ModelHandle:
    """The model with a cache, or as it is if that is off. Raises ``HyVideoError`` if it has one already."""
    if isinstance(cache, StepCache) and not cache.threshold:
        return model
    node = NODES[type(cache)]
    for other in model.extensions:
        if isinstance(other, StepCache | TeaCacheCalibration):
            raise HyVideoError(
                f"model went through {NODES[type(other)]} already, and only one cache of steps can act, or be "
                f"calibrated for. Take it or {node} away, or set its threshold to 0."
            )
    return with_feature(model, cache, node)


def _calibration(name: str) -> Path:
    return models.file(FOLDER, name)


def _measured(path: Path) -> tuple[float, ...]:
    """The coefficients that a calibration gives. Raises ``CheckpointError`` where it is none."""
    try:
        return fitted(noted_pairs(path))
    except ValueError as error:
        raise CheckpointError(f"The calibration {path.name}: {error}") from error
