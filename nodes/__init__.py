"""The nodes, one file a stage of the pipeline. Schemas and wiring only; everything about tensors is in the core."""

from comfy_api.latest import ComfyExtension, io

from . import plan_route
from .batch import HyvBatchPrompts
from .decode import HyvDecode, HyvDecodeVideo, HyvEncode
from .guidance import HyvAPG, HyvCfgZeroStar, HyvFreSca, HyvSLG, HyvSTG
from .image_prompt import HyvEncodeImagePrompt
from .image_to_video import HyvFitImage, HyvImageToVideo, HyvKeyframes
from .latent import HyvEmptyLatent
from .legacy import legacy_nodes
from .length import HyvContextWindows, HyvEnhanceAVideo, HyvRiflex, HyvSeamlessLoop, HyvSlidingTileAttention
from .load import HyvLoadModel, HyvLoadTextEncoders, HyvLoadVAE
from .model import HyvLora, HyvMemory, HyvPlan
from .prompt_files import HyvLoadPrompt, HyvSavePrompt
from .prompts import HyvBlendPrompts, HyvPromptSchedule
from .rewrite_prompt import HyvRewritePrompt
from .sample import HyvSampler
from .schedule import HyvSchedule
from .step_cache import HyvEasyCache, HyvFirstBlockCache, HyvTeaCache, HyvTeaCacheCalibration
from .text import HyvEncodePrompt
from .video import HyvSaveVideo
from .video_to_video import HyvFlowEdit, HyvInvert, HyvRFInversion

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
    HyvKeyframes,
    HyvFitImage,
    HyvEncodeImagePrompt,
    HyvBlendPrompts,
    HyvPromptSchedule,
    HyvSavePrompt,
    HyvLoadPrompt,
    HyvRewritePrompt,
    HyvSchedule,
    HyvSampler,
    HyvDecode,
    HyvDecodeVideo,
    HyvEncode,
    HyvSaveVideo,
    HyvBatchPrompts,
    HyvContextWindows,
    HyvEnhanceAVideo,
    HyvRiflex,
    HyvSeamlessLoop,
    HyvSlidingTileAttention,
    HyvInvert,
    HyvRFInversion,
    HyvFlowEdit,
    HyvCfgZeroStar,
    HyvSTG,
    HyvSLG,
    HyvFreSca,
    HyvAPG,
    HyvTeaCache,
    HyvFirstBlockCache,
    HyvEasyCache,
    HyvTeaCacheCalibration,
]


class HyVideoStudio(ComfyExtension):
    """What the host asks for the pack's nodes."""

    async def on_load(self) -> None:
        """Serve what the browser asks the nodes."""
        plan_route.register(NODES)

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """All nodes of the pack, and those of old workflows unless another pack has them."""
        return [*NODES, *legacy_nodes()]


async def comfy_entrypoint() -> ComfyExtension:
    """Called by the host once the pack is imported."""
    return HyVideoStudio()


__all__ = ["comfy_entrypoint"]
