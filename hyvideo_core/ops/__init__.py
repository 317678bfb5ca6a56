"""Linear layers by how their weight is stored."""

from hyvideo_core.ops.linear import Linear

__all__ = ["Linear"]
