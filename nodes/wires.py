"""What a latent of a workflow is for: which model and which decoder its wires lead to. Nothing is run for it."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass

import folder_paths

from hyvideo_core.errors import HyVideoError
from hyvideo_core.sample import Guidance
from hyvideo_core.types import Geometry, Interval
from hyvideo_core.vae import Tiling

from .handles import FileVersion, HyvModel, ModelHandle, VAEHandle
from .latent import size_px
from .load import model_handle
from .pace import style
from .planning import AUTO, Decoder
from .workflow import Workflow, shown

LATENT, LOADER, SAMPLER, PLAN, VAE_LOADER = "HyvEmptyLatent", "HyvLoadModel", "HyvSampler", "HyvPlan", "HyvLoadVAE"
DECODERS = ("HyvDecode", "HyvDecodeVideo")
#: Nodes that hand a latent on in its size, and the input that takes it.
KEEP_SIZE = {SAMPLER: "latent", "SetLatentNoiseMask": "samples"}


class Unconnected(HyVideoError):
    """The wires lead to no sampler, no model or no VAE yet."""


@dataclass(frozen=True)
class Job:
    """What is to be planned: one latent, the model that samples it, and how the result is decoded.

    ``decoder`` is None where no decoder of this pack takes the result, and an error where it cannot be known.
    ``at_once`` is how many prompts one evaluation holds; ``steps`` None where a run's levels are wired in; ``style`` as
    in ``pace``.
    """

    model: ModelHandle
    size: Geometry
    batch: int
    decoder: Decoder | HyVideoError | None
    at_once: int = 1
    steps: int | None = None
    style: Hashable = None


def job_of(workflow: Workflow, latent: str | None = None) -> Job:
    """What the HyVideo Empty Latent with this id, or the only one, is for: the first sampler, or plan, that takes it.

    Raises ``Unconnected`` where something is missing, ``HyVideoError`` for values that nodes do not take.
    """
    latent = _latent(workflow, latent)
    given = workflow.values(latent)
    size = Geometry(*size_px(workflow.choice(latent, "resolution")), given["frames"])
    user = _user(workflow, latent)
    model = _model(workflow, user)
    if workflow.kind(user) == PLAN:
        return Job(model, size, given["batch_size"], Decoder())
    values = workflow.values(user)
    guidance = Guidance(
        cfg=values["cfg"],
        interval=Interval(values.get("cfg_start", 0.0), values.get("cfg_end", 1.0)),
        batched=values.get("batched_cfg", False),
    )
    return Job(
        model,
        size,
        given["batch_size"],
        _decoder(workflow, user),
        guidance.prompts_at_once,
        None if "sigmas" in workflow.inputs(user) else values["steps"],
        style(model, guidance, values.get("solver", "euler")),
    )


def _latent(workflow: Workflow, name: str | None) -> str:
    found = workflow.of_kind(LATENT)
    if name is not None and name not in found:
        raise HyVideoError(f"node is {shown(name)}, but must be the id of a HyVideo Empty Latent in the prompt.")
    if name is None and len(found) != 1:
        raise HyVideoError(
            f"prompt has {len(found)} HyVideo Empty Latents, but one is planned at a time. Give the id of one as node."
        )
    return name or found[0]


def _user(workflow: Workflow, latent: str) -> str:
    users = [name for name, field in _followed(workflow, latent) if field == "latent"]
    found = next((name for name in users if workflow.kind(name) in (SAMPLER, PLAN)), None)
    if found is None:
        raise Unconnected(
            f"No HyVideo Sampler takes the latent of node {latent}, so there is no model to plan with. Connect one."
        )
    return found


def _followed(workflow: Workflow, source: str) -> Iterator[tuple[str, str]]:
    """Nodes that take a latent, and by which input: also by way of those that keep its size."""
    seen, waiting = {source}, [source]
    while waiting:
        for name, field in workflow.takers(waiting.pop(0)):
            yield name, field
            if KEEP_SIZE.get(workflow.kind(name)) == field and name not in seen:
                seen.add(name)
                waiting.append(name)


def _model(workflow: Workflow, user: str) -> ModelHandle:
    """The model as it reaches a node, with all that nodes on the way add to it from plain values.

    A node that takes more, such as an image, adds nothing that a plan counts, and is passed over.
    """
    chain, name = [], user
    while workflow.kind(name) != LOADER:
        chain.append(name)
        source = workflow.source(name, "model")
        if source is None:
            raise Unconnected(f"{workflow.called(name)}: no model is connected. Connect HyVideo Load Model.")
        if source in chain or not _gives_model(workflow, source):
            raise HyVideoError(
                f"{workflow.called(name)}: its model comes from {workflow.called(source)}, and is known only when that "
                "has run. Connect the nodes of the model to each other."
            )
        name = source
    model = model_handle(**workflow.values(name))
    for name in reversed(chain[1:]):
        node = workflow.node_class(name)
        if node is not None and workflow.is_plain(name, beside="model"):
            (model,) = node.execute(model=model, **workflow.values(name)).args
    return model


def _gives_model(workflow: Workflow, name: str) -> bool:
    node = workflow.node_class(name)
    return node is not None and any(isinstance(each, HyvModel.Output) for each in node.define_schema().outputs)


def _decoder(workflow: Workflow, sampler: str) -> Decoder | HyVideoError | None:
    """How the first decoder behind a sampler decodes. What is wrong with it does not keep a run from being planned."""
    followed = _followed(workflow, sampler)
    name = next((name for name, field in followed if field == "latent" and workflow.kind(name) in DECODERS), None)
    if name is None:
        return None
    try:
        return Decoder(_vae(workflow, name), _tiling(workflow, name), workflow.values(name).get("loop", False))
    except HyVideoError as error:
        return error


def _vae(workflow: Workflow, decoder: str) -> VAEHandle:
    source = workflow.source(decoder, "vae")
    if source is None or workflow.kind(source) != VAE_LOADER:
        raise Unconnected(f"{workflow.called(decoder)}: no VAE is connected. Connect HyVideo Load VAE.")
    values = workflow.values(source)
    path = folder_paths.get_full_path_or_raise("vae", values["vae"])
    return VAEHandle(FileVersion.of(path), values["dtype"])


def _tiling(workflow: Workflow, decoder: str) -> Tiling | str | None:
    choice = workflow.choice(decoder, "tiling")
    if choice is None:
        raise HyVideoError(f"{workflow.called(decoder)}: tiling must be auto, tiled or whole. Choose one of them.")
    if choice["tiling"] == "tiled":
        return Tiling(choice["tile_size"], choice["tile_frames"], choice["overlap"])
    return None if choice["tiling"] == "whole" else AUTO
