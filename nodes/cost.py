"""The answer to what a job will cost: its plans as plain values, and what would fit where it does not."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from hyvideo_core.configs import HUNYUAN_VIDEO_VAE
from hyvideo_core.decoding_plan import DecodingPlan
from hyvideo_core.errors import DoesNotFitError, GeometryError, HyVideoError
from hyvideo_core.types import SPATIAL_COMPRESSION, TEMPORAL_COMPRESSION, Geometry

from . import host, http, pace, planning
from .latent import OFFICIAL_FRAMES, OFFICIAL_SIZES_PX
from .planning import Room
from .wires import Job
from .workflow import MissingFile

Json = dict[str, Any]

#: Frames a second of what the model was trained on.
FPS = 24


def told(job: Job, given_gb: float = 0.0) -> Json:
    """What a job takes of a card with ``given_gb`` free, or of this one as it is now if that is 0."""
    room = Room.of(given_gb)
    sampling, decoding = _sampling(job, room), _decoding(job, room)
    fits = all(part is None or part["fits"] is not False for part in (sampling, decoding))
    return {
        "size": _size(job),
        "model": {"file": job.model.file.path.name, "kind": job.model.kind},
        "memory": {
            "device": str(host.transformer_device()),
            "free_bytes": room.free_bytes,
            "is_given": room.is_given,
        },
        "fits": fits,
        "sampling": sampling,
        "decoding": decoding,
        "time": _time(job, room) if sampling["fits"] else None,
        "instead": [] if fits else _instead(job, room),
    }


def latent_shape(job: Job) -> tuple[int, int, int, int, int]:
    """The latent [B, C, T, H, W] that one evaluation holds."""
    return job.batch * job.at_once, HUNYUAN_VIDEO_VAE.latent_channels, *job.size.latent_shape


def _size(job: Job) -> Json:
    size = job.size
    return {
        "width": size.width,
        "height": size.height,
        "frames": size.frames,
        "seconds": round(size.frames / FPS, 3),
        "batch_size": job.batch,
        "latent_shape": list(size.latent_shape),
        "tokens": size.tokens,
        "is_trained_size": (size.width, size.height) in OFFICIAL_SIZES_PX.values(),
        "is_trained_length": size.frames <= OFFICIAL_FRAMES,
    }


def _sampling(job: Job, room: Room) -> Json:
    try:
        plan = planning.sampling(job.model, latent_shape(job), room)
    except DoesNotFitError as error:
        limit = {"limit_bytes": room.sampling_bytes, "is_all_memory": room.is_all_memory}
        return {"fits": False, "needed_bytes": error.needed_bytes, **limit, "text": str(error)}
    return {"fits": True, **planning.sampling_values(plan), "text": plan.describe()}


def _decoding(job: Job, room: Room) -> Json | None:
    if job.decoder is None:
        return None
    if isinstance(job.decoder, HyVideoError):
        return {"fits": None, "text": str(job.decoder), **missing(job.decoder)}
    try:
        plan = planning.decoding(job.decoder, job.size.latent_shape, room)
    except GeometryError as error:
        needed = planning.least_decoding_bytes(job.decoder, job.size.latent_shape, room)
        return {"fits": False, "needed_bytes": needed, "limit_bytes": room.decoding_bytes, "text": str(error)}
    except (HyVideoError, OSError) as error:
        # A VAE's file that is damaged or another: the run can be planned all the same.
        return {"fits": None, "text": http.words(error)}
    fits = plan.peak_bytes <= room.decoding_bytes
    needed = {} if fits else {"needed_bytes": plan.peak_bytes}
    return {"fits": fits, **needed, **_decoding_values(plan), "text": plan.describe()}


def missing(error: Exception) -> Json:
    """The file that an error misses, and where it belongs; nothing for other errors."""
    return {"missing": {"file": error.file, "folder": error.folder}} if isinstance(error, MissingFile) else {}


def _decoding_values(plan: DecodingPlan) -> Json:
    tiling = plan.tiling
    return {
        "peak_bytes": plan.peak_bytes,
        "weights_bytes": plan.weights_bytes,
        "activation_bytes": plan.activation_bytes,
        "limit_bytes": plan.free_bytes,
        "tile_size_px": None if tiling is None else tiling.tile_size_px,
        "tile_frames": None if tiling is None else tiling.tile_frames,
    }


def _time(job: Job, room: Room) -> Json | None:
    """What runs of this session tell of the time; None where they tell nothing."""
    if room.is_given:
        return None
    shape = latent_shape(job)
    plan = planning.sampling(job.model, shape, room)
    measured = pace.nearest(job.style, plan)
    expected = measured and pace.expected(measured, plan, job.model)
    if measured is None or expected is None:
        return None
    return {
        "first_step_s": expected.first_s,
        "step_s": expected.step_s,
        "steps": job.steps,
        "total_s": job.steps and expected.run_s(job.steps),
        "is_scaled": measured.latent_shape != shape,
        "measured_step_s": measured.step_s,
        "measured_size": _pixels(measured.latent_shape),
    }


def _pixels(shape: tuple[int, ...]) -> list[int]:
    """Width, height and frames of a latent [B, C, T, H, W]."""
    frames, height, width = shape[2:]
    return [width * SPATIAL_COMPRESSION, height * SPATIAL_COMPRESSION, (frames - 1) * TEMPORAL_COMPRESSION + 1]


def _fits(job: Job, room: Room) -> bool:
    decoding = _decoding(job, room)
    return bool(_sampling(job, room)["fits"]) and (decoding is None or decoding["fits"] is not False)


def _instead(job: Job, room: Room) -> list[Json]:
    """The nearest jobs that fit, each by one change: fewer frames, one clip at a time, a smaller size."""
    size = job.size

    def fits(**changes: int) -> bool:
        batch = changes.pop("batch_size", job.batch)
        return _fits(replace(job, size=replace(size, **changes), batch=batch), room)

    found: list[Json] = []
    frames = planning.most_frames(lambda frames: fits(frames=frames), size.frames)
    if frames is not None:
        found.append({"frames": frames})
    if job.batch > 1 and fits(batch_size=1):
        found.append({"batch_size": 1})
    smaller = next((each for each in _smaller(size) if fits(**each)), None)
    return [*found, smaller] if smaller else found


def _smaller(size: Geometry) -> list[dict[str, int]]:
    """The official sizes of less area: those of the nearest shape first, and of these the largest."""

    def order(sides: tuple[int, int]) -> tuple[float, int]:
        shape = math.log(sides[0] / sides[1]) - math.log(size.width / size.height)
        return round(abs(shape), 1), -sides[0] * sides[1]

    sizes = sorted(OFFICIAL_SIZES_PX.values(), key=order)
    return [{"width": w, "height": h} for w, h in sizes if w * h < size.width * size.height]
