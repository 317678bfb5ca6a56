"""``/hyvideo/plan``: what a job will cost, for the size picker (``web/picker.js``) and for programs.

GET takes names and sizes, POST a workflow in the API format. Only headers of files are read, beside the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Container, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from aiohttp import web
from comfy_api.latest import io
from server import PromptServer

from hyvideo_core.errors import HyVideoError

from . import cost, http
from .wires import LATENT, LOADER, PLAN, VAE_LOADER, Unconnected, decoder_of, job_of
from .workflow import NodeClasses, Workflow, shown

PATH = "/hyvideo/plan"
#: What a POST may hold.
FIELDS = {"prompt", "node", "memory_gb"}
#: Far more than any workflow has.
MAX_BODY_BYTES = 8 * 2**20
MAX_MEMORY_GB = 1000.0
MEMORY, DECODER = "HyvMemory", "HyvDecode"
#: Parameters of a GET with names of their own: sides of a custom resolution, and what the VAE's loader calls dtype.
SIDES, VAE_DTYPE = ("width", "height"), "vae_dtype"

#: One at a time: a plan is a moment's work, and whoever types asks for many.
_worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="hyvideo-plan")


def register(classes: list[type[io.ComfyNode]]) -> None:
    """Serve the route; ``classes`` are the pack's nodes."""
    known: NodeClasses = {each.define_schema().node_id: each for each in classes}

    @PromptServer.instance.routes.get(PATH)
    async def by_names(request: web.Request) -> web.Response:
        return await _answered(lambda: _by_names(request.query, known))

    @PromptServer.instance.routes.post(PATH)
    async def by_workflow(request: web.Request) -> web.Response:
        try:
            body = await http.read_body(request, MAX_BODY_BYTES)
        except HyVideoError as error:
            return http.refused(str(error))
        # A browser counts any other status as a fault of the page, also for a graph that is not finished yet.
        status = 200 if request.query.get("refusals") == "200" else 400
        return await _answered(lambda: _by_workflow(body, known), status)


async def _answered(plan: Callable[[], cost.Json], status: int = 400) -> web.Response:
    try:
        return web.json_response(await asyncio.get_running_loop().run_in_executor(_worker, plan))
    except Unconnected as error:
        return http.refused(str(error), status, code="unconnected")
    # What the core and the host raise for what they are given: values, files, kernels that are not here.
    except (HyVideoError, ValueError, OSError, RuntimeError) as error:
        return http.refused(http.words(error), status, **cost.missing(error))


def _by_workflow(body: bytes, classes: NodeClasses) -> cost.Json:
    asked = http.parsed(body)
    unknown = sorted(set(asked) - FIELDS) if isinstance(asked, Mapping) else []
    if unknown or not isinstance(asked, Mapping):
        found = f"has {shown(unknown[0])}" if unknown else f"is {shown(asked)}"
        raise HyVideoError(
            f"The request {found}, but must be a JSON object with prompt (a workflow in the API format), and if need "
            "be node (the id of a HyVideo Empty Latent in it) and memory_gb."
        )
    node = asked.get("node")
    if node is not None and not isinstance(node, str):
        raise HyVideoError(f"node is {node!r}, but must be the id of a node: text.")
    memory_gb = _memory_gb(asked.get("memory_gb", 0.0))
    return cost.told(job_of(Workflow(asked.get("prompt"), classes), node), memory_gb)


def _by_names(query: Mapping[str, str], classes: NodeClasses) -> cost.Json:
    def given(node: str, leaving: Container[str] = ()) -> dict[str, Any]:
        inputs = classes[node].define_schema().inputs
        return _typed(query, [each for each in inputs if each.id not in leaving])

    loader, memory, latent = given(LOADER), given(MEMORY), given(LATENT, ["resolution"])
    decoder = given(DECODER, ["skip_frames"])
    sides = {f"resolution.{side}": _number(side, query.get(side, ""), int) for side in SIDES}
    vae = {"vae": query.get("vae"), "dtype": query.get(VAE_DTYPE, "auto")} if "vae" in query else {}
    known = {*loader, *memory, *latent, *decoder, *SIDES, "memory_gb", "vae", *([VAE_DTYPE] if vae else [])}
    if unknown := set(query) - known:
        raise HyVideoError(f"{sorted(unknown)[0]} is not known here. Known are {', '.join(sorted(known))}.")
    workflow = Workflow(
        {
            "model": {"class_type": LOADER, "inputs": loader},
            "memory": {"class_type": MEMORY, "inputs": {"model": ["model", 0], **memory}},
            "size": {"class_type": LATENT, "inputs": {"resolution": "custom", **sides, **latent}},
            "plan": {"class_type": PLAN, "inputs": {"model": ["memory", 0], "latent": ["size", 0]}},
            "vae": {"class_type": VAE_LOADER, "inputs": vae},
            "decode": {"class_type": DECODER, "inputs": decoder},
        },
        classes,
    )
    memory_gb = _memory_gb(_number("memory_gb", query.get("memory_gb", "0"), float))
    job = replace(job_of(workflow), decoder=decoder_of(workflow, "decode", "vae" if vae else None))
    return cost.told(job, memory_gb)


def _typed(query: Mapping[str, str], inputs: Iterable[io.Input], prefix: str = "") -> dict[str, Any]:
    """Plain inputs of a node from a query, of their types; those that are not there have their defaults."""
    found: dict[str, Any] = {}
    for each in inputs:
        name = prefix + each.id
        if isinstance(each, io.DynamicCombo.Input):
            found[name] = query.get(name, each.options[0].key)
            chosen = [option.inputs for option in each.options if option.key == found[name]]
            found |= _typed(query, chosen[0] if chosen else [], f"{name}.")
        elif isinstance(each, io.Combo.Input):
            found[name] = query.get(name, each.default)
        elif isinstance(each, io.Int.Input | io.Float.Input):
            kind = int if isinstance(each, io.Int.Input) else float
            found[name] = _number(name, query.get(name, str(each.default)), kind)
        elif isinstance(each, io.Boolean.Input):
            found[name] = _truth(name, query.get(name, str(each.default)))
    return found


def _truth(name: str, text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise HyVideoError(f"{name} is {text[:40]!r}, but must be true or false.")
    return text.lower() == "true"


def _number(name: str, text: str, kind: type[int] | type[float]) -> int | float:
    try:
        return kind(text)
    except ValueError as error:
        raise HyVideoError(f"{name} is {text[:40]!r}, but must be a number.") from error


def _memory_gb(memory_gb: object) -> float:
    if isinstance(memory_gb, bool) or not isinstance(memory_gb, int | float):
        raise HyVideoError(f"memory_gb is {type(memory_gb).__name__}, but must be a number.")
    # NaN lies between nothing.
    if not 0 <= memory_gb <= MAX_MEMORY_GB:
        raise HyVideoError(
            f"memory_gb is {shown(memory_gb)}, but must lie between 0 (this card now) and {MAX_MEMORY_GB:g}."
        )
    return memory_gb
