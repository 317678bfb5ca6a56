"""The nodes, one file a stage of the pipeline. Schemas and wiring only; everything about tensors is in the core."""

from comfy_api.latest import ComfyExtension, io

from .decode import HyvDecode, HyvDecodeVideo, HyvEncode
from .image_to_video import HyvImageToVideo
from .latent import HyvEmptyLatent
from .load import HyvLoadModel, HyvLoadTextEncoders, HyvLoadVAE
from .model import HyvLora, HyvMemory, HyvPlan
from .sample import HyvSampler
from .schedule import HyvSchedule
from .text import HyvEncodePrompt
from .video import HyvSaveVideo

NODES: list[type[io.ComfyNode]] = [
    HyvLoadModel,
    HyvLoadTextEncoders,
    HyvLoadVAE,
    HyvLora,
    HyvMemory,
    HyvPlan,
    HyvEncodePrompt,
    HyvEmptyLatent,
    HyvImageToVideo,
    HyvSchedule,
    HyvSampler,
    HyvDecode,
    HyvDecodeVideo,
    HyvEncode,
    HyvSaveVideo,
]


class HyVideoStudio(ComfyExtension):
    """What the host asks for the pack's nodes."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """All nodes of the pack."""
        return NODES


async def comfy_entrypoint() -> ComfyExtension:
    """Called by the host once the pack is imported."""
    return HyVideoStudio()


__all__ = ["comfy_entrypoint"]
