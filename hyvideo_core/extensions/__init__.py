"""Features that plug into sampling through its seams, each a file of its own."""

from hyvideo_core.extensions.lora import Loras

__all__ = ["Loras"]
