"""What each template is for and what to change in it first: the words of its note, and the title of its thumbnail."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class About:
    """A template in words: a short ``title``, what it ``does``, and what to change ``first``.

    ``first`` is said of the workflow for the real files and of its demo, ``real`` and ``demo`` of one of them.
    """

    title: str
    does: str
    first: tuple[str, ...] = ()
    real: tuple[str, ...] = ()
    demo: tuple[str, ...] = ()


PROMPT = "**Prompt**: what the video shows."
SEED = "**seed** in *HyVideo Sampler*: another number is another video."
SIZE = "**Size and length**: fewer frames or a smaller resolution for a quick look."
CLIP = "**Video**: choose your clip. It is sampled in its own size and length: bring it to 4n+1 frames, 129 at most."
DRAWN = "**Square**: its color, width and height; **Image**: its place, x and y."

#: By the names of the workflows without ``hyvideo_`` and ``demo_``.
ABOUT: dict[str, About] = {
    "t2v": About("Text to video", "Makes a video of a prompt.", (PROMPT, SEED), (SIZE,)),
    "image": About(
        "Text to image",
        "Makes a picture of a prompt: a video of one frame.",
        ("**Prompt**: what the picture shows.", "**seed** in *HyVideo Sampler*: another number is another picture."),
        ("**Size and length**: the resolution.",),
    ),
    "i2v": About(
        "Image to video",
        "Makes a video that begins with your image.",
        (
            "**Prompt**: what the image shows, which the language model does not see here, and what happens.",
            SEED,
        ),
        (
            "**Image**: the first frame, of any size; its middle is taken in the video's shape.",
            "**stability** in *HyVideo Image to Video*: off for livelier motion, with **shift** 17 in the sampler.",
        ),
        (DRAWN,),
    ),
    "i2v_vision": About(
        "Image to video, seen by the language model",
        "Makes a video that begins with your image. The language model sees it too, as in the original.",
        (
            "**Image**: the first frame, of any size; its middle is taken in the video's shape.",
            "**Prompt**: what happens. What the image shows need not be said.",
            SEED,
        ),
    ),
    "keyframes": About(
        "First and last frame",
        "Makes a video that begins with one image and ends with another, by a keyframe LoRA.",
        ("**First frame** and **Last frame**: your images.", "**Prompt**: what happens between.", SEED),
    ),
    "ip2v": About(
        "Image in the prompt",
        "Makes a video of a prompt with your image among its words.",
        (
            "**Image**: what is meant.",
            "**Prompt**: write **&lt;image&gt;** where you would name what the image shows. For several images write "
            "it as often, and connect them in that order.",
            SEED,
        ),
    ),
    "inpaint": About(
        "Inpainting",
        "What is white in the mask is made anew as the prompt says; what is black is kept. Here it is the right half.",
        (
            "**Prompt**: what the whole clip shows in the end.",
            "**Mask**: *Load Image (as Mask)* in its place takes one that you painted.",
            "**denoise** in *HyVideo Sampler*: lower keeps more of what was there.",
        ),
        (CLIP,),
    ),
    "flow_edit": About(
        "FlowEdit",
        "Turns what one prompt says of a clip into what another says, without inverting the clip.",
        (
            "**What it shows** and **What it shall show**: the same prompt but for a few words.",
            "**target_guidance** in *HyVideo FlowEdit*: higher changes more.",
            "**n_max**: fewer steps stay closer to the clip.",
        ),
        (CLIP,),
        ("The clip is made here first, by *HyVideo Sampler*; your own goes to **latent** by *HyVideo Encode*.",),
    ),
    "rf_inversion": About(
        "RF inversion",
        "The clip goes to noise that holds its structure, and from there to what the prompt says.",
        (
            "**Prompt**: what the clip shall show.",
            "**eta** in *HyVideo RF Inversion*: higher stays closer to the clip; lower it if the prompt does not show.",
            "**steps** and **shift**: the same in *HyVideo Invert* and *HyVideo Sampler*.",
        ),
        (CLIP,),
    ),
    "prompt_schedule": About(
        "Prompt after prompt",
        "The run begins with one prompt and goes on with another: the first settles layout and motion, the later one "
        "the details.",
        (
            "**Prompt** and **Later prompt**.",
            "**start** in *HyVideo Prompt Schedule*: the part of the steps after which the later prompt comes in. 0.2 "
            "lets it settle much, 0.7 only details.",
        ),
    ),
    "prompt_blend": About(
        "Prompts blended",
        "Mixes two prompts, with more weight on a word, into one between them, and keeps it as a file.",
        (
            "**First prompt** and **Second prompt**: **(word:1.2)** gives a word more weight.",
            "**share_2** in *HyVideo Blend Prompts*: 0 is the first prompt alone, 1 the second.",
            "What *HyVideo Save Prompt* keeps, *HyVideo Load Prompt* brings back in place of all these prompt nodes, "
            "without any text encoder.",
        ),
    ),
    "guidance": About(
        "Better guidance",
        "*HyVideo CFG-Zero★* leaves out the first step, which is easily misled; *HyVideo STG* steers away from what "
        "the model makes with a block left out, which takes one more evaluation a step.",
        (PROMPT, "**scale** in *HyVideo STG*: lower it where colours or contrast get too strong; 0 is off."),
    ),
    "solver": About(
        "Fewer steps by another solver",
        "*HyVideo Schedule* gives the noise levels, in place of the sampler's steps, shift and denoise; with "
        "**dpm++ 2m** fewer of them do.",
        (
            PROMPT,
            "**steps** in *HyVideo Schedule*.",
            "Nodes that split or change SIGMAS go between, and any scheduler for flow models may stand in its place.",
        ),
    ),
    "fast": About(
        "Steps skipped",
        "*HyVideo First-Block Cache* skips what a step would compute nearly the same again. ComfyUI's log tells how "
        "many steps were skipped.",
        (
            PROMPT,
            "**threshold** in *HyVideo First-Block Cache*: higher skips more and is less faithful. In fewer than 50 "
            "steps little is skipped at 0.06.",
        ),
        ("*HyVideo TeaCache* in its place is the one to start with for the original files.",),
    ),
    "sparse_attention": About(
        "Attention to what is near",
        "After the first third of the steps each part of the video looks only at what is near, at this size at 37 % "
        "of it. The larger and longer the video, the more time that saves.",
        (PROMPT, "**start** in *HyVideo Sliding Tile Attention*: earlier saves more and may change the layout."),
    ),
    "long": About(
        "Longer than the model's own",
        "Samples a long video in windows of the model's own length that share frames, with the memory of one window.",
        (
            PROMPT,
            "**frames** in *Size and length*.",
            "**overlap_frames** in *HyVideo Context Windows*: more is smoother, and more windows.",
            "**freenoise**: off for videos that shall change on the way.",
        ),
    ),
    "loop": About(
        "Seamless loop",
        "Makes a video whose end goes on at its beginning: **loop** is on in *HyVideo Decode* too.",
        (
            "**Prompt**: something that can return to where it was.",
            "**shift_latent_frames** in *HyVideo Seamless Loop*: a number that shares no divisor with the latent's "
            "length, which is frames / 4 rounded up.",
        ),
    ),
    "batch": About(
        "Several clips in one run",
        "Makes two clips in one run, each of its own prompt. Every few steps what is done is kept: after a crash or a "
        "stop queue the same job again, and it goes on from there.",
        (
            "**Prompt** and **Prompt of the second clip**; for more clips more prompts, and as much **batch_size**.",
            "**checkpoint_every** in *HyVideo Sampler*: after how many steps it keeps what is done.",
        ),
    ),
    "t2v_native_nodes": About(
        "Text to video among ComfyUI's own nodes",
        "This pack's model and sampler, with ComfyUI's own nodes for the text, the guidance, the VAE and saving.",
        (PROMPT, SEED, SIZE),
    ),
    "image_native_nodes": About(
        "Text to image among ComfyUI's own nodes",
        "This pack's model and sampler, with ComfyUI's own nodes for the text, the guidance, the VAE and saving.",
        ("**Prompt**: what the picture shows.", "**seed** in *HyVideo Sampler*: another number is another picture."),
    ),
}


def about(workflow: str) -> About:
    """That of a workflow by its name."""
    return ABOUT[workflow.removeprefix("hyvideo_").removeprefix("demo_")]
