"""Features that plug into sampling through its seams, each a file of its own."""

from hyvideo_core.extensions.apg import AdaptiveProjectedGuidance
from hyvideo_core.extensions.block_swap import BlockSwap
from hyvideo_core.extensions.cfg_zero_star import CfgZeroStar
from hyvideo_core.extensions.context_windows import ContextWindows
from hyvideo_core.extensions.easy_cache import EasyCache
from hyvideo_core.extensions.enhance_a_video import EnhanceAVideo
from hyvideo_core.extensions.first_block_cache import FirstBlockCache
from hyvideo_core.extensions.fresca import FreSca
from hyvideo_core.extensions.image_concat import ImageConcat
from hyvideo_core.extensions.image_to_video import FirstFrame, ImageToVideo
from hyvideo_core.extensions.inpainting import Inpainting, latent_mask
from hyvideo_core.extensions.keyframes import Keyframes
from hyvideo_core.extensions.lora import Loras
from hyvideo_core.extensions.prompt_schedule import ScheduledPrompts
from hyvideo_core.extensions.rf_inversion import RFInversion
from hyvideo_core.extensions.riflex import Riflex
from hyvideo_core.extensions.seamless_loop import SeamlessLoop
from hyvideo_core.extensions.skip_guidance import SkipGuidance
from hyvideo_core.extensions.sliding_tile import SlidingTileAttention
from hyvideo_core.extensions.tea_cache import TeaCache
from hyvideo_core.extensions.tea_cache_calibration import TeaCacheCalibration

__all__ = [
    "AdaptiveProjectedGuidance",
    "BlockSwap",
    "CfgZeroStar",
    "ContextWindows",
    "EasyCache",
    "EnhanceAVideo",
    "FirstBlockCache",
    "FirstFrame",
    "FreSca",
    "ImageConcat",
    "ImageToVideo",
    "Inpainting",
    "Keyframes",
    "Loras",
    "RFInversion",
    "Riflex",
    "ScheduledPrompts",
    "SeamlessLoop",
    "SkipGuidance",
    "SlidingTileAttention",
    "TeaCache",
    "TeaCacheCalibration",
    "latent_mask",
]
