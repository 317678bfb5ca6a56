"""Where weights are while a model runs: on the device, or on the host and streamed to it block by block."""

from hyvideo_core.memory.placement import Placement
from hyvideo_core.memory.streaming import BlockStream, streamed
from hyvideo_core.memory.transfers import Transfers, transfers_for

__all__ = ["BlockStream", "Placement", "Transfers", "streamed", "transfers_for"]
