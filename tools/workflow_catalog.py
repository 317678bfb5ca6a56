"""Every workflow that is shipped, by its file name."""

from __future__ import annotations

from dataclasses import replace

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

#: What the note of a workflow says of it, where its nodes do not say it themselves.
CLIP = "Choose your clip in *Load Video*. "
BLIND = (
    "The language model does not see the image here: say in the prompt what it shows, too. In the template "
    "**hyvideo_i2v_vision** it does."
)
SEEING = "The language model sees the image, as in the original: the prompt need only say what happens."
BETWEEN = (
    "The video begins with the first image and ends with the last: choose both, and say in the prompt what happens."
)
IN_WORDS = (
    "**<image>** in the prompt stands for the image: write it where you would name what the image shows. For several "
    "images write it as often, and connect them in that order."
)
MASKED = (
    "What is white in the mask is made anew as the prompt says, black is kept. Here it is the right half; *Load Image "
    "(as Mask)* in place of *Mask* takes one that you painted. Lower **denoise** keeps more of what was there."
)
INVERTED = (
    "The clip goes to noise that holds its structure, and from there to what the prompt says. Raise **eta** to stay "
    "closer to the clip, lower it if the prompt does not show. Both nodes need the same steps and shift."
)
WEIGHTED = (
    "**(word:1.2)** gives a word more weight. What *Save Prompt* saves, *HyVideo Load Prompt* brings back in place of "
    "all these prompt nodes, without any text encoder."
)
LEVELS = (
    "*HyVideo Schedule* replaces the sampler's steps, shift and denoise. With **dpm++ 2m** fewer steps do. Nodes that "
    "split or change SIGMAS go between, and any scheduler for flow models may stand in its place."
)
NEAR = (
    "After the first third of the steps each part of the video looks only at what is near, at this size at 37 % of it. "
    "The larger and longer the video, the more time that saves."
)
SEVERAL = (
    "One run makes both clips, each of its own prompt. Every few steps what is done is kept (**checkpoint_every**): "
    "after a crash or a stop queue the same job again, and it goes on from there."
)


def _real(scale: Scale = VIDEO_540P, files: Files = REAL, prompt: str = PROMPT) -> Graph:
    return own_nodes(files, scale, "hyvideo", prompt)


def _demo(scale: Scale = DEMO_VIDEO, prompt: str = DEMO_PROMPT) -> Graph:
    return own_nodes(DEMO, scale, "hyvideo_demo", prompt)


def _small_mask() -> Graph:
    return right_half(SMALL_SIZE["resolution.width"], SMALL_SIZE["resolution.height"])


_I2V = image_to_video(_real(files=REAL_I2V, prompt=MOTION), HOSTS_PICTURE)
_I2V_VISION = image_to_video(_real(files=REAL_I2V_VISION, prompt=HAPPENS), HOSTS_PICTURE)
_DEMO_I2V = image_to_video(own_nodes(DEMO_I2V, replace(DEMO_VIDEO, cfg=3.0), "hyvideo_demo", DEMO_MOTION), red_square())

WORKFLOWS: dict[str, tuple[Graph, Files]] = {
    "hyvideo_t2v": (_real(), REAL),
    "hyvideo_image": (_real(IMAGE_720P), REAL),
    "hyvideo_i2v": (_I2V, REAL_I2V.explained(BLIND)),
    "hyvideo_i2v_vision": (seen(_I2V_VISION, FIRST_FRAME), REAL_I2V_VISION.explained(SEEING)),
    "hyvideo_keyframes": (between(_real(prompt=MOTION)), REAL_KEYFRAMES.explained(BETWEEN)),
    "hyvideo_ip2v": (seen(_real(prompt=OF_IMAGE), IN_PROMPT), REAL_VISION.explained(IN_WORDS)),
    "hyvideo_inpaint": (inpainted(_real(), USERS_CLIP, right_half(960, 544), 0.9), REAL.explained(CLIP + MASKED)),
    "hyvideo_flow_edit": (of_own_clip(edited(_real(), WOLF, VIDEO_540P.steps)), REAL.explained(CLIP.rstrip())),
    "hyvideo_rf_inversion": (inverted(_real(prompt=WOLF), USERS_CLIP, 0.5, 0.5), REAL.explained(CLIP + INVERTED)),
    "hyvideo_prompt_schedule": (scheduled(_real(), WOLF), REAL),
    "hyvideo_prompt_blend": (blended(_real(), HEAVY_CAT, WOLF, "hyvideo"), REAL.explained(WEIGHTED)),
    "hyvideo_guidance": (guided(_real(), "double 2"), REAL),
    "hyvideo_solver": (solved(_real(), "dpm++ 2m", 20), REAL.explained(LEVELS)),
    "hyvideo_fast": (cached(_real()), REAL),
    "hyvideo_sparse_attention": (sparse(_real(VIDEO_720P)), REAL.explained(NEAR)),
    "hyvideo_long": (windowed(_real(replace(VIDEO_540P, frames=257)), 129, 32), REAL),
    "hyvideo_loop": (looping(_real(), 5), REAL),
    "hyvideo_batch": (batched(_real(), WOLF, 5, "hyvideo_batch"), REAL.explained(SEVERAL)),
    "hyvideo_t2v_native_nodes": (native_nodes(REAL, VIDEO_540P, "hyvideo_native"), REAL),
    "hyvideo_image_native_nodes": (native_nodes(REAL, IMAGE_720P, "hyvideo_native"), REAL),
    "hyvideo_demo_t2v": (_demo(), DEMO),
    "hyvideo_demo_image": (own_nodes(DEMO, DEMO_IMAGE, "hyvideo_demo", DEMO_IMAGE_PROMPT), DEMO),
    "hyvideo_demo_i2v": (_DEMO_I2V, DEMO_I2V),
    "hyvideo_demo_inpaint": (
        inpainted(_demo(prompt=TWO), red_square(16, 16, DEMO_VIDEO.frames), _small_mask(), 0.9),
        DEMO.explained(MASKED),
    ),
    "hyvideo_demo_flow_edit": (edited(_demo(), BLUE, DEMO_VIDEO.steps), DEMO),
    "hyvideo_demo_rf_inversion": (
        inverted(_demo(prompt=BLUE_STILL), red_square(frames=DEMO_VIDEO.frames), 0.0, 0.8),
        DEMO.explained(INVERTED),
    ),
    "hyvideo_demo_prompt_schedule": (scheduled(_demo(), BLUE), DEMO),
    "hyvideo_demo_prompt_blend": (blended(_demo(), HEAVY_RED, YELLOW, "hyvideo_demo"), DEMO.explained(WEIGHTED)),
    "hyvideo_demo_guidance": (guided(_demo(), "double 1"), DEMO),
    "hyvideo_demo_solver": (solved(_demo(), "dpm++ 2m", 8), DEMO.explained(LEVELS)),
    "hyvideo_demo_fast": (cached(_demo()), DEMO),
    "hyvideo_demo_long": (windowed(_demo(replace(DEMO_VIDEO, frames=49)), 17, 8), DEMO),
    "hyvideo_demo_loop": (looping(_demo(prompt=STILL), 2), DEMO),
    "hyvideo_demo_batch": (batched(_demo(), GREEN, 5, "hyvideo_demo_batch"), DEMO.explained(SEVERAL)),
}
#: What the models of the demo cannot do: they see no images, know no end image, and their videos are one tile.
WITHOUT_DEMO = ("hyvideo_i2v_vision", "hyvideo_keyframes", "hyvideo_ip2v", "hyvideo_sparse_attention")
