"""Every picture of the help pages: panels side by side, each what a graph of nodes makes.

Captions are the names and values of inputs, which are the same in all languages.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from tools.demo_model import files as demo
from tools.workflow_catalog import BLUE, BLUE_STILL, GREEN, HEAVY_RED, TWO, YELLOW
from tools.workflow_features import batched, blended, looping, scheduled, solved, windowed, with_features, with_inputs
from tools.workflow_features_video import edited, inpainted, inverted, of_clip, right_half
from tools.workflow_graphs import (
    DEMO,
    DEMO_I2V,
    DEMO_MOTION,
    DEMO_PROMPT,
    DEMO_VIDEO,
    Graph,
    Link,
    Node,
    Scale,
    image_to_video,
    own_nodes,
    red_square,
)

DECODED = Link("decode")


@dataclass(frozen=True)
class Panel:
    """What the node ``shown`` of a graph gives, with a caption below; ``plays`` times in a row."""

    caption: str
    graph: Graph
    shown: Link = DECODED
    plays: int = 1


Picture = tuple[Panel, ...]

#: As long as the model's own clips, three times.
LONG = replace(DEMO_VIDEO, frames=49)
SQUARE_SIZE: dict[str, Any] = {"resolution": "custom", "resolution.width": 64, "resolution.height": 64}
WHOLE_RUN = {"start": 0.0, "end": 1.0}
#: The demo's transformer has few blocks.
DISTURBED = "single 1"


def made(prompt: str = DEMO_PROMPT, scale: Scale = DEMO_VIDEO, **sampler: Any) -> Graph:
    """A clip of a prompt, with other settings of the sampler."""
    graph = own_nodes(DEMO, scale, "help", prompt)
    return {**graph, "sampler": with_inputs(graph["sampler"], **sampler)}


def undistilled(prompt: str = DEMO_PROMPT, **sampler: Any) -> Graph:
    """The same by the model that needs cfg, without an image."""
    graph = own_nodes(replace(DEMO_I2V, kind="auto"), replace(DEMO_VIDEO, cfg=3.0), "help", prompt)
    return {**graph, "sampler": with_inputs(graph["sampler"], **sampler)}


def featured(kind: str, graph: Graph | None = None, **inputs: Any) -> Graph:
    """A graph with a node on the model's wire."""
    return with_features(graph or made(), ("feature", Node(kind, inputs)))


def guided(kind: str, cfg: float = 3.0, **inputs: Any) -> Graph:
    """The same where true cfg is at work."""
    return featured(kind, undistilled(cfg=cfg), **inputs, **WHOLE_RUN)


def tuned(graph: Graph, name: str, **inputs: Any) -> Graph:
    """A graph with other inputs of one node."""
    return {**graph, name: with_inputs(graph[name], **inputs)}


def _round_trip() -> Graph:
    """Through the VAE and back."""
    graph = of_clip(made(), DRAWN)
    return {name: graph[name] for name in ("vae", *DRAWN, "encode")} | {
        "decode": with_inputs(graph["decode"], latent=Link("encode"))
    }


def _of_drawn(denoise: float) -> Graph:
    return tuned(of_clip(made(BLUE_STILL), DRAWN), "sampler", denoise=denoise)


def _inverted(eta: float) -> Graph:
    return tuned(inverted(made(BLUE_STILL), DRAWN, 0.0, eta), "steer", eta=eta)


def _noise() -> Graph:
    """What the inversion gives, decoded."""
    graph = _inverted(0.8)
    return {**graph, "decode": with_inputs(graph["decode"], latent=Link("invert"))}


def _with_image(**inputs: Any) -> Graph:
    graph = own_nodes(DEMO_I2V, replace(DEMO_VIDEO, cfg=3.0), "help", DEMO_MOTION)
    return tuned(image_to_video(graph, red_square()), "first", **inputs)


def _night(strength: float) -> Graph:
    lora = {"lora": demo.LORA.name, "strength": strength, "blocks": "", "apply": "while running"}
    return featured("HyvLora", **lora)


def _saved_as(format: str, crf: int = 16) -> Graph:
    graph = made()
    saved = {"images": Link("decode"), "fps": 24.0, "crf": crf, "filename_prefix": "help", "format": format}
    return {**graph, "save": Node("HyvSaveVideo", saved)}


def _fitted() -> Graph:
    """A picture of another shape, brought to a size of image-to-video's."""
    colors = (0xF7F7F7, 0xD91A1A)
    sides = ((300, 60), (40, 40))
    paper, ink = (
        Node("EmptyImage", {"width": width, "height": height, "batch_size": 1, "color": color})
        for (width, height), color in zip(sides, colors, strict=True)
    )
    place = {"x": 5, "y": 10, "resize_source": False}
    both = {"destination": Link("paper"), "source": Link("ink"), **place}
    fit = {"image": Link("picture"), "resolution": "360p", "frames": 129, "batch_size": 1}
    picture = Node("ImageCompositeMasked", both)
    return {"paper": paper, "ink": ink, "picture": picture, "fit": Node("HyvFitImage", fit)}


#: A square that rests, drawn by nodes.
DRAWN = red_square(frames=DEMO_VIDEO.frames)
BLENDED = {
    share: tuned(blended(made(), HEAVY_RED, YELLOW, "help"), "blend", share_2=share) for share in (0.0, 0.5, 1.0)
}
TURNED = {start: tuned(scheduled(made(), BLUE), "turn", start=start, fade=0.0) for start in (0.2, 0.7, 0.9)}
BATCH = batched(made(), GREEN, 0, "help")
EDIT = edited(made(), BLUE, DEMO_VIDEO.steps)
INPAINTED = inpainted(made(TWO), red_square(16, 16, DEMO_VIDEO.frames), right_half(96, 48), 0.9)
CALIBRATED = featured("HyvTeaCacheCalibration", name="help")

PICTURES: dict[str, Picture] = {
    "prompts": (
        Panel("red circle moving left", made()),
        Panel("green square growing", made(GREEN)),
        Panel("red square, blue circle moving up", made(TWO)),
        Panel("yellow circle moving left", made(YELLOW)),
    ),
    "models": (
        Panel("hyvideo_demo_t2v, cfg 1", made()),
        Panel("hyvideo_demo_i2v, cfg 3", undistilled()),
        Panel("storage fp8", tuned(made(), "model", storage="fp8")),
        Panel("attention chunked", tuned(made(), "model", attention="chunked")),
    ),
    "vae": (Panel("images", DRAWN, Link("picture")), Panel("encoded and decoded", _round_trip())),
    "size": (
        Panel("96 x 48, frames 17", made()),
        Panel("64 x 64, frames 17", made(scale=replace(DEMO_VIDEO, resolution=SQUARE_SIZE))),
        Panel("64 x 64, frames 1", made(scale=Scale(SQUARE_SIZE, 1, 20))),
    ),
    "steps": tuple(Panel(f"steps {steps}", made(steps=steps)) for steps in (2, 5, 10, 20)),
    "guidance": tuple(Panel(f"guidance {scale:g}", made(TWO, guidance=scale)) for scale in (1.0, 6.0)),
    "cfg": tuple(Panel(f"cfg {scale:g}", undistilled(TWO, cfg=scale)) for scale in (1.0, 3.0)),
    "denoise": (
        Panel("latent", DRAWN, Link("picture")),
        *(Panel(f"denoise {denoise:g}", _of_drawn(denoise)) for denoise in (0.4, 0.7, 1.0)),
    ),
    "inpainting": (
        Panel("latent", red_square(16, 16, DEMO_VIDEO.frames), Link("picture")),
        Panel("white: made anew", INPAINTED),
    ),
    "schedule": tuple(Panel(f"shift {shift:g}", made(TWO, shift=shift)) for shift in (1.0, 7.0, 17.0)),
    "solver": (
        Panel("euler, steps 3", made(TWO, steps=3)),
        Panel("dpm++ 2m, steps 3", solved(made(TWO), "dpm++ 2m", 3)),
    ),
    "blend": tuple(Panel(f"share_2 {share:g}", graph) for share, graph in BLENDED.items()),
    "prompt_schedule": (
        Panel("red circle", made()),
        *(Panel(f"blue circle from start {start:g}", graph) for start, graph in TURNED.items()),
    ),
    "batch": tuple(
        Panel(
            f"prompt{place}",
            BATCH
            | {"decode": Node("HyvDecode", {"vae": Link("vae"), "latent": Link(f"clip_{place}"), "tiling": "auto"})},
        )
        for place in (0, 1)
    ),
    "image_to_video": (
        Panel("image", red_square(), Link("picture")),
        *(Panel(f"stability {word}", _with_image(stability=on)) for word, on in (("on", True), ("off", False))),
    ),
    "fit_image": (
        Panel("image", _fitted(), Link("picture")),
        Panel("360p", _fitted(), Link("fit")),
    ),
    "lora": tuple(Panel(f"strength {strength:g}", _night(strength)) for strength in (0.0, 0.25, 1.0)),
    "tea_cache": tuple(
        Panel(f"threshold {threshold:g}", featured("HyvTeaCache", threshold=threshold, coefficients="HunyuanVideo"))
        for threshold in (0.0, 0.15, 0.6)
    ),
    "tea_cache_calibration": (Panel("without", made()), Panel("HyVideo TeaCache Calibration", CALIBRATED)),
    "first_block_cache": tuple(
        Panel(f"threshold {threshold:g}", featured("HyvFirstBlockCache", threshold=threshold))
        for threshold in (0.0, 0.12, 0.5)
    ),
    "easy_cache": tuple(
        Panel(f"threshold {threshold:g}", featured("HyvEasyCache", threshold=threshold))
        for threshold in (0.0, 0.1, 0.4)
    ),
    "sliding_tile_attention": (
        Panel("without", made(TWO)),
        *(
            Panel(
                f"windows of {window} tiles",
                featured(
                    "HyvSlidingTileAttention",
                    made(TWO),
                    **{f"window_{axis}": window for axis in ("frames", "height", "width")},
                    **{f"tile_{axis}": 1 for axis in ("frames", "height", "width")},
                    **WHOLE_RUN,
                ),
            )
            for window in (3, 1)
        ),
    ),
    "cfg_zero_star": (
        Panel("without", undistilled(TWO)),
        Panel(
            "zero_steps 1",
            featured("HyvCfgZeroStar", undistilled(TWO), optimized_scale=True, zero_steps=1, **WHOLE_RUN),
        ),
    ),
    "stg": tuple(
        Panel(
            f"scale {scale:g}",
            featured("HyvSTG", made(TWO), scale=scale, blocks=DISTURBED, mode="residual (STG-R)", **WHOLE_RUN),
        )
        for scale in (0.0, 0.5, 2.0)
    ),
    "slg": tuple(
        Panel(f"scale {scale:g}", featured("HyvSLG", made(TWO), scale=scale, blocks=DISTURBED, start=0.01, end=0.5))
        for scale in (0.0, 1.0, 3.0)
    ),
    "apg": (
        Panel("cfg 8", undistilled(cfg=8.0)),
        Panel("cfg 8, HyVideo APG", guided("HyvAPG", cfg=8.0, eta=0.0, momentum=-0.5, norm_threshold=15.0)),
    ),
    "fresca": tuple(
        Panel(f"high {high:g}", guided("HyvFreSca", low=1.0, high=high, cutoff=2)) for high in (0.5, 1.0, 1.5)
    ),
    "enhance_a_video": tuple(
        Panel(f"weight {weight:g}", featured("HyvEnhanceAVideo", made(TWO), weight=weight, **WHOLE_RUN))
        for weight in (-1.0, 1.0, 4.0)
    ),
    "context_windows": (
        Panel("49 frames without", made(scale=LONG)),
        Panel("window_frames 17", windowed(made(scale=LONG), 17, 8)),
    ),
    "riflex": (
        Panel("49 frames without", made(scale=LONG)),
        Panel("k 1, above_frames 17", featured("HyvRiflex", made(scale=LONG), k=1, above_frames=17)),
    ),
    "loop": (
        Panel("without, three times", made(GREEN), plays=3),
        Panel("with, three times", looping(made(GREEN), 2), plays=3),
    ),
    "flow_edit": (Panel("red circle", made()), Panel("blue circle", EDIT)),
    "rf_inversion": (
        Panel("latent", DRAWN, Link("picture")),
        Panel("HyVideo Invert: noise", _noise()),
        Panel("eta 0.8: blue square", _inverted(0.8)),
        Panel("eta 0: blue square", _inverted(0.0)),
    ),
    "tiling": (
        Panel("tiling whole", tuned(made(), "decode", tiling="whole")),
        Panel("tiling auto", made()),
    ),
    "formats": (
        Panel("H.264 mp4, crf 16", _saved_as("H.264 mp4"), Link("save")),
        Panel("H.264 mp4, crf 45", _saved_as("H.264 mp4", 45), Link("save")),
        Panel("FFV1 lossless mov", _saved_as("FFV1 lossless mov"), Link("save")),
        Panel("GIF", _saved_as("GIF"), Link("save")),
    ),
}
