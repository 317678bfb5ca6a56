"""What the panel on a sampler's node shows, as events to the client that queued the job.

``hyvideo.progress`` has values, of which the browser makes lines in its user's language; ``hyvideo.preview`` has a clip
as one picture (``hyvideo_core.preview.Sheet``). docs/api.md tells programs what is in them.
"""

from __future__ import annotations

import base64
import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from comfy_execution.progress import get_progress_state
from comfy_execution.utils import get_executing_context
from server import PromptServer

from hyvideo_core.preview import Clip, sheet

logger = logging.getLogger(__name__)

PROGRESS, PREVIEW = "hyvideo.progress", "hyvideo.preview"
RUNNING, FINISHED, STOPPED, FAILED = "running", "finished", "stopped", "failed"


class Panel:
    """The panel of one node in one job. Clips are encoded in a thread of their own, while the run goes on."""

    def __init__(self, client_id: str, node_id: str) -> None:
        context = get_executing_context()
        self._client_id = client_id
        self._job = {
            # Within a node that expands, the one that the user sees.
            "node": get_progress_state().dynprompt.get_display_node_id(node_id),
            "prompt_id": None if context is None else context.prompt_id,
        }
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="hyvideo-preview")
        self._encoding: Future[None] | None = None

    @property
    def is_busy(self) -> bool:
        """Whether the last clip is still being encoded."""
        return self._encoding is not None and not self._encoding.done()

    def tell(self, state: str, values: dict[str, Any]) -> None:
        """Show how a run fares; ``state`` is one of those above."""
        self._send(PROGRESS, {"state": state, **values})

    def show(self, clip: Clip, took: Callable[[float], None]) -> None:
        """Show a clip; ``took`` hears, in another thread, the seconds that a processor was busy encoding it."""
        self._encoding = self._thread.submit(self._encode, clip, took)

    def close(self) -> None:
        """Wait for the last clip, if it is still being encoded."""
        self._thread.shutdown()

    def _encode(self, clip: Clip, took: Callable[[float], None]) -> None:
        started = time.thread_time()
        try:
            made = vars(sheet(clip))
            image = "data:image/jpeg;base64," + base64.b64encode(made.pop("jpeg")).decode()
            self._send(PREVIEW, {"image": image, **made})
        except Exception:
            # Nothing waits for this thread; what went wrong would never be seen.
            logger.warning("A preview could not be shown. The video is not affected.", exc_info=True)
        took(time.thread_time() - started)

    def _send(self, event: str, data: dict[str, Any]) -> None:
        PromptServer.instance.send_sync(event, self._job | data, self._client_id)
