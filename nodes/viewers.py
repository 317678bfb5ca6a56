"""Who watches a run, and which previews they get.

The pack's own panel (``web/preview.js``) tells which kind its user chose, by client; those clients get clips that move.
The host's setting decides for all others, as for its own samplers. It is not asked about clients with the panel: its
default is none, and a none that was chosen cannot be told from that.
"""

from __future__ import annotations

from dataclasses import dataclass

from aiohttp import web
from comfy.cli_args import LatentPreviewMethod, args
from server import PromptServer

from hyvideo_core.errors import HyVideoError

from . import http

AUTO, LATENT_RGB, TAEHV, OFF = CHOICES = ("auto", "latent2rgb", "taehv", "off")
HOSTS_CHOICE = {
    LatentPreviewMethod.NoPreviews: OFF,
    LatentPreviewMethod.Auto: AUTO,
    LatentPreviewMethod.Latent2RGB: LATENT_RGB,
    LatentPreviewMethod.TAESD: TAEHV,
}

#: Far more than a client id and a method are.
MAX_BODY_BYTES = 4096

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
        told = http.parsed(await http.read_body(request, MAX_BODY_BYTES))
        client_id, choice = str(told["client_id"]), told["method"]
    except HyVideoError as error:
        return http.refused(str(error))
    except (KeyError, TypeError) as error:
        return http.refused(f"client_id and method were expected, as JSON: {error!r}")
    connected = PromptServer.instance.sockets
    if client_id not in connected:
        return http.refused(f"No client {client_id} listens here.")
    if choice not in CHOICES:
        return http.refused(f"method is {choice!r}, but must be one of {', '.join(CHOICES)}.")
    for gone in _chosen.keys() - connected.keys():
        del _chosen[gone]
    _chosen[client_id] = choice
    return web.json_response({"method": choice})
