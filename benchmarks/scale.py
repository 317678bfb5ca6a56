"""Which models and sizes the GPU benchmarks run: the true ones, or tiny ones under the same names for a rehearsal."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hyvideo_core.attention.sliding_tile import Triple
from hyvideo_core.configs import HUNYUAN_VIDEO, HUNYUAN_VIDEO_VAE, DiTConfig, VAEConfig
from hyvideo_core.types import Geometry

GOAL_SIZE, SECOND_SIZE, SHORT_SIZE, IMAGE_SIZE = "720×1280×129", "544×960×129", "320×512×61", "720×1280×1"
CAPS_GB = (24, 16, 12, 8)
#: 544×960×129 shall run under this too.
SMALL_CAP_GB = 6
#: The windows whose speed the authors of sliding tiles publish, 58 % and 91 % of the pairs left out at their size.
#: Source: arXiv 2502.04507, table 1, which states them in tokens.
LARGE_WINDOW, SMALL_WINDOW = "5×5×5", "3×3×3"


@dataclass(frozen=True)
class Scale:
    """A transformer, a VAE, and the geometry behind each name of a size; a tile in tokens, windows of tiles."""

    dit: DiTConfig
    vae: VAEConfig
    sizes: dict[str, Geometry]
    is_true: bool
    windows: dict[str, Triple]
    tile: Triple = (6, 8, 8)
    text_tokens: int = 256
    #: Measured after one to warm up.
    steps: int = 3
    #: Of a whole run: as many as TeaCache and EasyCache were published with.
    run_steps: int = 50


TRUE = Scale(
    HUNYUAN_VIDEO,
    HUNYUAN_VIDEO_VAE,
    {
        GOAL_SIZE: Geometry(1280, 720, 129),
        SECOND_SIZE: Geometry(960, 544, 129),
        SHORT_SIZE: Geometry(512, 320, 61),
        IMAGE_SIZE: Geometry(1280, 720, 1),
    },
    is_true=True,
    windows={LARGE_WINDOW: (5, 5, 5), SMALL_WINDOW: (3, 3, 3)},
)
REHEARSAL = Scale(
    replace(HUNYUAN_VIDEO, hidden_size=128, heads=4, rope_dims=(8, 12, 12), double_blocks=1, single_blocks=8),
    replace(HUNYUAN_VIDEO_VAE, block_out_channels=(8, 8, 8, 8), norm_groups=4, tile_size_px=32, tile_frames=8),
    {
        GOAL_SIZE: Geometry(48, 32, 13),
        SECOND_SIZE: Geometry(48, 32, 9),
        SHORT_SIZE: Geometry(32, 32, 5),
        IMAGE_SIZE: Geometry(48, 32, 1),
    },
    is_true=False,
    windows={LARGE_WINDOW: (2, 1, 1), SMALL_WINDOW: (1, 1, 1)},
    tile=(2, 2, 2),
    text_tokens=4,
    steps=1,
    # EasyCache computes the first five and the last.
    run_steps=9,
)
