"""Every workflow that is shipped, by its file name."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from tools.workflow_features import batched, blended, cached, guided, looping, scheduled, solved, sparse, windowed
from tools.workflow_features_video import (
    FIRST_FRAME,
    IN_PROMPT,
    USERS_CLIP,
    between,
    edited,
    inpainted,
    inverted,
    of_own_clip,
    right_half,
    seen,
)
from tools.workflow_graphs import (
    DEMO,
    DEMO_I2V,
    DEMO_IMAGE,
    DEMO_IMAGE_PROMPT,
    DEMO_MOTION,
    DEMO_PROMPT,
    DEMO_VIDEO,
    HOSTS_PICTURE,
    IMAGE_720P,
    MOTION,
    PROMPT,
    REAL,
    REAL_I2V,
    REAL_I2V_VISION,
    REAL_KEYFRAMES,
    REAL_VISION,
    SMALL_SIZE,
    VIDEO_540P,
    VIDEO_720P,
    Files,
    Graph,
    Scale,
    image_to_video,
    native_nodes,
    own_nodes,
    red_square,
)

BLUE = "a blue circle moving left on a white background"
#: What moves one way cannot begin again where it ends.
STILL = "a red circle staying still on a white background"
YELLOW = "a yellow circle moving left on a white background"
BLUE_STILL = "a blue square staying still on a white background"
GREEN = "a green square growing on a white background"
TWO = "a red square staying still and a blue circle moving up on a white background"
HEAVY_RED = "a (red:1.2) circle moving left on a white background"
WOLF = "A white wolf walks on the grass, realistic style."
HEAVY_CAT = "A (cat:1.2) walks on the grass, realistic style."
#: Of the host's picture: what need only be said to who sees it, and to who has it for a word.
HAPPENS = "She waves both arms, clouds drift by."
OF_IMAGE = "A cat walks on the grass, in the style of <image>."


def _real(scale: Scale = VIDEO_540P, files: Files = REAL, prompt: str = PROMPT) -> Graph:
    return own_nodes(files, scale, "hyvideo", prompt)


def _demo(scale: Scale = DEMO_VIDEO, prompt: str = DEMO_PROMPT) -> Graph:
    return own_nodes(DEMO, scale, "hyvideo_demo", prompt)


def _small_mask() -> Graph:
    return right_half(SMALL_SIZE["resolution.width"], SMALL_SIZE["resolution.height"])


_I2V = image_to_video(_real(files=REAL_I2V, prompt=MOTION), HOSTS_PICTURE)
_I2V_VISION = image_to_video(_real(files=REAL_I2V_VISION, prompt=HAPPENS), HOSTS_PICTURE)
_DEMO_I2V = image_to_video(own_nodes(DEMO_I2V, replace(DEMO_VIDEO, cfg=3.0), "hyvideo_demo", DEMO_MOTION), red_square())


class Workflow(NamedTuple):
    """A graph with the model files it loads."""

    graph: Graph
    files: Files


WORKFLOWS: dict[str, Workflow] = {
    "hyvideo_t2v": Workflow(_real(), REAL),
    "hyvideo_image": Workflow(_real(IMAGE_720P), REAL),
    "hyvideo_i2v": Workflow(_I2V, REAL_I2V),
    "hyvideo_i2v_vision": Workflow(seen(_I2V_VISION, FIRST_FRAME), REAL_I2V_VISION),
    "hyvideo_keyframes": Workflow(between(_real(prompt=MOTION)), REAL_KEYFRAMES),
    "hyvideo_ip2v": Workflow(seen(_real(prompt=OF_IMAGE), IN_PROMPT), REAL_VISION),
    "hyvideo_inpaint": Workflow(inpainted(_real(), USERS_CLIP, right_half(960, 544), 0.9), REAL),
    "hyvideo_flow_edit": Workflow(of_own_clip(edited(_real(), WOLF, VIDEO_540P.steps)), REAL),
    "hyvideo_rf_inversion": Workflow(inverted(_real(prompt=WOLF), USERS_CLIP, 0.5, 0.5), REAL),
    "hyvideo_prompt_schedule": Workflow(scheduled(_real(), WOLF), REAL),
    "hyvideo_prompt_blend": Workflow(blended(_real(), HEAVY_CAT, WOLF, "hyvideo"), REAL),
    "hyvideo_guidance": Workflow(guided(_real(), "double 2"), REAL),
    "hyvideo_solver": Workflow(solved(_real(), "dpm++ 2m", 20), REAL),
    "hyvideo_fast": Workflow(cached(_real()), REAL),
    "hyvideo_sparse_attention": Workflow(sparse(_real(VIDEO_720P)), REAL),
    "hyvideo_long": Workflow(windowed(_real(replace(VIDEO_540P, frames=257)), 129, 32), REAL),
    "hyvideo_loop": Workflow(looping(_real(), 5), REAL),
    "hyvideo_batch": Workflow(batched(_real(), WOLF, 5, "hyvideo_batch"), REAL),
    "hyvideo_t2v_native_nodes": Workflow(native_nodes(REAL, VIDEO_540P, "hyvideo_native"), REAL),
    "hyvideo_image_native_nodes": Workflow(native_nodes(REAL, IMAGE_720P, "hyvideo_native"), REAL),
    "hyvideo_demo_t2v": Workflow(_demo(), DEMO),
    "hyvideo_demo_image": Workflow(own_nodes(DEMO, DEMO_IMAGE, "hyvideo_demo", DEMO_IMAGE_PROMPT), DEMO),
    "hyvideo_demo_i2v": Workflow(_DEMO_I2V, DEMO_I2V),
    "hyvideo_demo_inpaint": Workflow(
        inpainted(_demo(prompt=TWO), red_square(16, 16, DEMO_VIDEO.frames), _small_mask(), 0.9),
        DEMO,
    ),
    "hyvideo_demo_flow_edit": Workflow(edited(_demo(), BLUE, DEMO_VIDEO.steps), DEMO),
    "hyvideo_demo_rf_inversion": Workflow(
        inverted(_demo(prompt=BLUE_STILL), red_square(frames=DEMO_VIDEO.frames), 0.0, 0.8),
        DEMO,
    ),
    "hyvideo_demo_prompt_schedule": Workflow(scheduled(_demo(), BLUE), DEMO),
    "hyvideo_demo_prompt_blend": Workflow(blended(_demo(), HEAVY_RED, YELLOW, "hyvideo_demo"), DEMO),
    "hyvideo_demo_guidance": Workflow(guided(_demo(), "double 1"), DEMO),
    "hyvideo_demo_solver": Workflow(solved(_demo(), "dpm++ 2m", 8), DEMO),
    "hyvideo_demo_fast": Workflow(cached(_demo()), DEMO),
    "hyvideo_demo_long": Workflow(windowed(_demo(replace(DEMO_VIDEO, frames=49)), 17, 8), DEMO),
    "hyvideo_demo_loop": Workflow(looping(_demo(prompt=STILL), 2), DEMO),
    "hyvideo_demo_batch": Workflow(batched(_demo(), GREEN, 5, "hyvideo_demo_batch"), DEMO),
}
#: What the models of the demo cannot do: they see no images, know no end image, and their videos are one tile.
WITHOUT_DEMO = ("hyvideo_i2v_vision", "hyvideo_keyframes", "hyvideo_ip2v", "hyvideo_sparse_attention")
