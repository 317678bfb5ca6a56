"""Many runs as one job: each with features of its own between the loader and its sampler."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jobs
import torch
from safetensors.torch import load_file

#: A node and its settings.
Feature = tuple[str, Mapping[str, Any]]


def with_features(features: Sequence[Feature], changes: Mapping[str, Any] | None = None) -> jobs.Json:
    """The usual job with the model on its way through these nodes."""
    job, model = jobs.text_to_latent(changes), ["model", 0]
    for place, (kind, settings) in enumerate(features):
        job[f"feature{place}"] = jobs.node(kind, model=model, **settings)
        model = [f"feature{place}", 0]
    job["sampler"]["inputs"]["model"] = model
    return job


def latents(
    studio: Any, branches: Sequence[Sequence[Feature]], changes: Mapping[str, Any] | None = None
) -> list[torch.Tensor]:
    """The latent that each of these sequences of features gives, all of them from one job."""
    job: jobs.Json = {}
    for number, features in enumerate(branches):
        shared, own = ("model", "encoders", "prompt", "size"), with_features(features, changes)
        names = {name: name if name in shared else f"{name}_{number}" for name in own}
        for name, node in own.items():
            inputs = {
                field: [names[value[0]], value[1]] if isinstance(value, list) else value
                for field, value in node["inputs"].items()
            }
            job[names[name]] = node | {"inputs": inputs}
    outputs = studio.run(job)
    return [load_file(studio.files(outputs, f"save_{number}")[0])["latent_tensor"] for number in range(len(branches))]
