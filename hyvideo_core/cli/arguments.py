"""The arguments of ``generate``: names and defaults of the original, checked before anything is loaded.

Source: HunyuanVideo ``hyvideo/config.py``, ``hyvideo/inference.py``.
"""

from __future__ import annotations

import argparse
import math
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from hyvideo_core.attention.registry import KERNELS
from hyvideo_core.errors import GeometryError
from hyvideo_core.sample import Guidance
from hyvideo_core.types import SIZE_STEP_PX, Geometry
from hyvideo_core.weights import Lora

#: Where the original keeps its files, so that its commands run unchanged in its folder.
CHECKPOINTS = Path("ckpts")
T2V = CHECKPOINTS / "hunyuan-video-t2v-720p"
#: What the original avoids above cfg 1 where nothing is said. Source: ``hyvideo/constants.py``.
NEGATIVE_PROMPT = (
    "Aerial view, aerial view, overexposed, low quality, deformation, a poor composition, bad hands, bad teeth, "
    "bad eyes, bad limbs, distortion"
)
#: The original draws its seeds from 0 to this.
LARGEST_RANDOM_SEED = 1_000_000
LARGEST_SEED = 2**63 - 1
_LORA = re.compile(r"(?P<file>.+?)(?::(?P<strength>[-+.\deE]+)(?::(?P<blocks>.*))?)?", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What one call of ``generate`` was asked for, under the names of the command line."""

    prompt: str
    neg_prompt: str | None = None
    video_size: list[int]
    video_length: int
    infer_steps: int
    embedded_cfg_scale: float
    cfg_scale: float
    flow_shift: float
    flow_reverse: bool
    seed: int = field(default_factory=lambda: random.randint(0, LARGEST_RANDOM_SEED))
    num_videos: int
    batch_size: int
    save_path: Path
    dit: Path
    vae: Path
    text_encoder: Path
    clip: Path
    llm_tokenizer: Path | None = None
    clip_tokenizer: Path | None = None
    lora: list[Lora] = field(default_factory=list)
    attention: str
    device: torch.device
    vram: float | None = None
    use_cpu_offload: bool
    use_fp8: bool

    @property
    def geometry(self) -> Geometry:
        """Size and length, each side rounded up to what the model can represent, as the original does."""
        height, width = (math.ceil(side / SIZE_STEP_PX) * SIZE_STEP_PX for side in self.asked_size)
        return Geometry(width, height, self.video_length)

    @property
    def asked_size(self) -> tuple[int, int]:
        """(height, width) as given."""
        return self.video_size[0], self.video_size[-1]

    @property
    def guidance(self) -> Guidance:
        """Both guidance scales."""
        return Guidance(embedded=self.embedded_cfg_scale, cfg=self.cfg_scale)

    @property
    def seeds(self) -> list[int]:
        """The seed of each video."""
        return [self.seed + number for number in range(self.num_videos)]


def parse(argv: Sequence[str] | None = None) -> Arguments:
    """The arguments of a command line. Ends the process with status 2 and a sentence for those that make no sense."""
    parser = argparse.ArgumentParser(prog="python -m hyvideo_core")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    generate = commands.add_parser(
        "generate",
        allow_abbrev=False,
        usage="%(prog)s --prompt TEXT [argument ...]",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        help="make videos from a prompt",
        description="Makes mp4 files from a prompt. Arguments and defaults are those of the original sample_video.py.",
    )
    _add_video(generate)
    _add_files(generate)
    _add_machine(generate)
    arguments = Arguments(**vars(parser.parse_args(argv)))
    if problem := _problem(arguments):
        generate.error(problem)
    return arguments


def _add_video(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the video")
    add = group.add_argument
    add("--prompt", type=_prompt, required=True, default=argparse.SUPPRESS, help="what the video shows")
    add(
        "--neg-prompt",
        default=argparse.SUPPRESS,
        help="what to avoid; works only with --cfg-scale above 1, and is the original's list where nothing is given",
    )
    add(
        "--video-size",
        type=_number(int, 1),
        nargs="+",
        metavar="PX",
        default=[720, 1280],
        help="height and width, or one number for both; rounded up to multiples of 16",
    )
    add("--video-length", type=_frames, default=129, metavar="FRAMES", help="4n+1; 1 is an image")
    add("--infer-steps", type=_number(int, 1), default=50, metavar="N", help="steps of sampling")
    add("--embedded-cfg-scale", type=_number(float, 0), default=6.0, metavar="X", help="guidance of distilled models")
    add(
        "--cfg-scale",
        type=_number(float, 1),
        default=1.0,
        metavar="X",
        help="true guidance against the negative prompt; above 1 a step takes twice the time",
    )
    add("--flow-shift", type=_number(float, 1e-3), default=7.0, metavar="X", help="7 to 9, 17 for Fast checkpoints")
    add(
        "--flow-reverse",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="from noise to video, as every published command asks for; the original's own default is the other "
        "direction, --no-flow-reverse, which gives no video with published checkpoints",
    )
    add(
        "--seed",
        type=_number(int, 0),
        default=argparse.SUPPRESS,
        help="of the first video; those after it take the next numbers. Random where none is given. Noise is drawn on "
        "the CPU, so that every device starts from the same; the original draws it on the device",
    )
    add("--num-videos", type=_number(int, 1), default=1, metavar="N", help="videos to make, each with its own seed")
    add(
        "--batch-size",
        type=_number(int, 1),
        default=1,
        metavar="N",
        help="videos sampled at once; each takes its own memory",
    )
    add("--save-path", type=Path, default=Path("results"), metavar="FOLDER", help="where the mp4 files go")


def _add_files(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("files, in any published layout")
    add = group.add_argument
    transformer = T2V / "transformers" / "mp_rank_00_model_states.pt"
    add("--dit", "--dit-weight", type=Path, default=transformer, help="the transformer: a file or a diffusers folder")
    add("--vae", type=Path, default=T2V / "vae" / "pytorch_model.pt", help="the VAE: a file")
    add("--text-encoder", type=Path, default=CHECKPOINTS / "text_encoder", help="the language model: a file or folder")
    add("--clip", type=Path, default=CHECKPOINTS / "text_encoder_2", help="CLIP-L: a file or folder")
    add(
        "--llm-tokenizer",
        type=Path,
        default=argparse.SUPPRESS,
        help="tokenizer.json of the language model, needed where it is not in the folder of --text-encoder and "
        "COMFYUI_PATH names no ComfyUI; not used where the file of --text-encoder holds its own",
    )
    add(
        "--clip-tokenizer",
        type=Path,
        default=argparse.SUPPRESS,
        help="the folder with CLIP-L's vocab.json and merges.txt; as above",
    )
    add(
        "--lora",
        type=_lora,
        action="append",
        default=argparse.SUPPRESS,
        metavar="FILE[:STRENGTH[:BLOCKS]]",
        help="a LoRA, with factors for blocks like 'double 0-9: 0.5, single: 0.8'; may be given several times",
    )


def _add_machine(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the machine")
    add = group.add_argument
    kernels = f"the attention kernel: auto, {', '.join(KERNELS)}; the last four, where their packages are installed"
    add("--attention", choices=["auto", *KERNELS], default="auto", metavar="KERNEL", help=kernels)
    add(
        "--device",
        type=_device,
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="cuda, cuda:1 or cpu",
    )
    add(
        "--vram",
        type=_number(float, 1e-3),
        default=argparse.SUPPRESS,
        metavar="GB",
        help="use no more than this of the card; on a CPU the plan alone heeds it",
    )
    add(
        "--use-cpu-offload",
        action="store_true",
        help="all blocks of the transformer stream from the computer's memory, and the text encoders run on the CPU",
    )
    add(
        "--use-fp8",
        action="store_true",
        help="hold the transformer's blocks in fp8; files that are smaller than bf16 already stay as they are",
    )


def _problem(arguments: Arguments) -> str | None:
    """What makes no sense in arguments that are readable one by one."""
    if len(arguments.video_size) > 2:
        return f"argument --video-size: {len(arguments.video_size)} numbers, but height and width were expected."
    if arguments.batch_size > arguments.num_videos:
        return (
            f"argument --batch-size: {arguments.batch_size} videos at once, but --num-videos makes "
            f"{arguments.num_videos} in all. Raise --num-videos or lower --batch-size."
        )
    if arguments.seeds[-1] > LARGEST_SEED:
        return f"argument --seed: the last seed is {arguments.seeds[-1]}, but the largest is {LARGEST_SEED}."
    files = {
        "--dit": arguments.dit,
        "--vae": arguments.vae,
        "--text-encoder": arguments.text_encoder,
        "--clip": arguments.clip,
        "--llm-tokenizer": arguments.llm_tokenizer,
        "--clip-tokenizer": arguments.clip_tokenizer,
    }
    wanted = [*files.items(), *(("--lora", lora.file) for lora in arguments.lora)]
    missing = [f"argument {name}: there is no {path}" for name, path in wanted if path and not path.exists()]
    return ". ".join([*missing, "README tells which files there are."]) if missing else None


def _prompt(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("is empty, but must say what the video shows.")
    return text.strip()


def _number(kind: Callable[[str], float], least: float) -> Callable[[str], float]:
    """A reader of finite numbers from ``least`` on."""

    def read(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not least <= value < math.inf:
            sort = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"is {text!r}, but must be {sort} of at least {least:g}.")
        return value

    return read


def _frames(text: str) -> int:
    try:
        return Geometry(SIZE_STEP_PX, SIZE_STEP_PX, int(text)).frames
    except (GeometryError, ValueError) as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _lora(text: str) -> Lora:
    match = _LORA.fullmatch(text)
    if match is None:
        raise argparse.ArgumentTypeError("is empty, but must be FILE, FILE:STRENGTH or FILE:STRENGTH:BLOCKS.")
    try:
        return Lora(Path(match["file"]), float(match["strength"] or 1), match["blocks"] or "")
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _device(text: str) -> torch.device:
    try:
        device = torch.device(text)
    except RuntimeError as error:
        raise argparse.ArgumentTypeError(f"is {text!r}, but must be cuda, cuda:1 or cpu.") from error
    cards = torch.cuda.device_count()
    if device.type not in ("cpu", "cuda") or (device.type == "cuda" and (device.index or 0) >= cards):
        raise argparse.ArgumentTypeError(f"is {text!r}, but this torch knows the CPU and {cards} CUDA devices.")
    return device
