"""Linear layers and how their weights are stored."""

from hyvideo_core.ops.linear import Linear
from hyvideo_core.ops.low_rank import LowRank
from hyvideo_core.ops.packing import PLAIN, Packing, Plain, Stored

__all__ = ["PLAIN", "Linear", "LowRank", "Packing", "Plain", "Stored"]
