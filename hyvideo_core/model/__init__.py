"""The diffusion transformer: no devices, no files."""

from hyvideo_core.model.dit import DiT

__all__ = ["DiT"]
