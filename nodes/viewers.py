"""Who watches a run, and which previews they get.

The pack's own panel (``web/preview.js``) tells which kind its user chose, by client; those clients get clips that move.
The host's setting decides for all others, as for its own samplers. It is not asked about clients with the panel: its
default is none, and a none that was chosen cannot be told from that.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from aiohttp import web
from comfy.cli_args import LatentPreviewMethod, args
from server import PromptServer

AUTO, LATENT_RGB, TAEHV, OFF = CHOICES = ("auto", "latent2rgb", "taehv", "off")
HOSTS_CHOICE = {
    LatentPreviewMethod.NoPreviews: OFF,
    LatentPreviewMethod.Auto: AUTO,
    LatentPreviewMethod.Latent2RGB: LATENT_RGB,
    LatentPreviewMethod.TAESD: TAEHV,
}

#: What the clients that have the panel chose, by client id.
_chosen: dict[str, str] = {}


@dataclass(frozen=True)
class Viewer:
    """The client that queued the job that runs; None if it listens to nothing."""

    client_id: str | None
    choice: str
    has_panel: bool

    @property
    def is_there(self) -> bool:
        """Whether it listens at the moment."""
        return self.client_id in PromptServer.instance.sockets


def viewer() -> Viewer:
    """Who watches the job that runs."""
    client_id = PromptServer.instance.client_id
    if client_id is None:
        return Viewer(None, OFF, has_panel=False)
    if client_id in _chosen:
        return Viewer(client_id, _chosen[client_id], has_panel=True)
    return Viewer(client_id, HOSTS_CHOICE[args.preview_method], has_panel=False)


@PromptServer.instance.routes.post("/hyvideo/preview")
async def _choose(request: web.Request) -> web.Response:
    """A client with the panel tells its id and its user's choice."""
    try:
        told = await request.json()
        client_id, choice = str(told["client_id"]), told["method"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        return web.json_response({"error": f"client_id and method were expected, as JSON: {error!r}"}, status=400)
    connected = PromptServer.instance.sockets
    if client_id not in connected:
        return web.json_response({"error": f"No client {client_id} listens here."}, status=400)
    if choice not in CHOICES:
        return web.json_response(
            {"error": f"method is {choice!r}, but must be one of {', '.join(CHOICES)}."}, status=400
        )
    for gone in _chosen.keys() - connected.keys():
        del _chosen[gone]
    _chosen[client_id] = choice
    return web.json_response({"method": choice})
