"""Features that plug into sampling through its seams, each a file of its own."""

from hyvideo_core.extensions.block_swap import BlockSwap
from hyvideo_core.extensions.image_to_video import ImageToVideo
from hyvideo_core.extensions.lora import Loras

__all__ = ["BlockSwap", "ImageToVideo", "Loras"]
