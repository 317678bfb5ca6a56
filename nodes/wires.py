"""What a latent of a workflow is for: which model and which decoder its wires lead to. Nothing is run for it."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Any

from hyvideo_core.errors import HyVideoError
from hyvideo_core.sample import Guidance
from hyvideo_core.types import Geometry, Interval
from hyvideo_core.vae import Tiling

from . import http, models
from .handles import FileVersion, HyvModel, ModelHandle
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
    ``at_once`` is how many prompts one evaluation holds; ``steps`` None where another node makes them, or a run's
    levels; ``style`` as in ``pace``.
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
    # No more than a plan needs: a seed, say, may be made by another node.
    values = workflow.values(user, "cfg", "cfg_start", "cfg_end", "batched_cfg", "solver")
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
        _steps(workflow, user),
        style(model, guidance, values.get("solver", "euler")),
    )


def _steps(workflow: Workflow, sampler: str) -> int | None:
    if "sigmas" in workflow.inputs(sampler) or not workflow.is_known(sampler, "steps"):
        return None
    return workflow.values(sampler, "steps")["steps"]


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
    chain: dict[str, None] = {}  # in order, and asked often
    name = user
    while workflow.kind(name) != LOADER:
        chain[name] = None
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
    for name in reversed(list(chain)[1:]):
        node = workflow.node_class(name)
        if node is not None and not workflow.takes_more(name, beside="model"):
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
    vae = workflow.source(name, "vae")
    if vae is None or workflow.kind(vae) != VAE_LOADER:
        return Unconnected(f"{workflow.called(name)}: no VAE is connected. Connect HyVideo Load VAE.")
    try:
        return decoder_of(workflow, name, vae)
    except HyVideoError as error:
        return error
    except OSError as error:
        # A file that is listed, and gone.
        return HyVideoError(http.words(error))


def decoder_of(workflow: Workflow, decoder: str, vae: str | None) -> Decoder:
    """How a HyVideo Decode decodes with the VAE of a loader, or with the published one. Raises ``HyVideoError``."""
    chosen: dict[str, Any] = {}
    if vae is not None:
        values = workflow.values(vae)
        chosen = {"vae": FileVersion.of(models.file("vae", values["vae"])), "dtype": values["dtype"]}
    loop = workflow.values(decoder, "loop").get("loop", False)
    return Decoder(**chosen, tiling=_tiling(workflow, decoder), loop=loop)


def _tiling(workflow: Workflow, decoder: str) -> Tiling | str | None:
    choice = workflow.choice(decoder, "tiling")
    if choice["tiling"] == "tiled":
        return Tiling(choice["tile_size"], choice["tile_frames"], choice["overlap"])
    return None if choice["tiling"] == "whole" else AUTO
