"""Which HunyuanVideo files ComfyUI would find: by the loaders' own judgement, or by headers alone without torch."""

from __future__ import annotations

import json
import re
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tools import downloads
from tools.console import clean_environment

FOLDERS = ("diffusion_models", "unet", "vae", "text_encoders", "clip", "clip_vision", "LLM")
#: Whole diffusers pipelines; of these only the transformer is used.
PIPELINES = "diffusers"
LORAS = "loras"
SAFETENSORS = (".safetensors", ".sft")
PICKLES = (".pt", ".pth", ".bin", ".ckpt")
GGUF = ".gguf"
SUFFIXES = (*SAFETENSORS, *PICKLES, GGUF)
MAX_HEADER_BYTES = 100_000_000
PREFIXES = (
    "model.diffusion_model.",
    "diffusion_model.",
    "language_model.model.",
    "model.language_model.",
    "model.model.",
    "transformer.",
    "module.",
    "model.",
    "vae.",
    "first_stage_model.",
    "clip_l.transformer.",
    "vision_tower.",
    "model.vision_tower.",
    "",
)

TRANSFORMER, VAE, LLAMA, CLIP, VISION = "transformer", "VAE", "language model", "CLIP-L", "vision tower"
#: What every video needs.
KINDS = (TRANSFORMER, VAE, LLAMA, CLIP)
TEXT_TO_VIDEO, TOKEN_REPLACE = "text-to-video", "image-to-video (token_replace)"
TEXT_TO_VIDEO_CHANNELS = 16
OTHER_CHANNELS = {32: "SkyReels image-to-video", 33: "image-to-video (latent_concat)"}
WITH_IMAGE = "give it an image by HyVideo Image to Video"
#: How files of image-to-video v2 are named, which has the channels of text-to-video.
IMAGE_TO_VIDEO_NAME = re.compile(r"i2v|image.?to.?video", re.IGNORECASE)
#: Only an own name makes a file worth a word that no loader takes.
OWN_NAME = re.compile(r"hunyuan|llava|mp_rank_00_model_states", re.IGNORECASE)
DIFFUSERS_CLASS = "HunyuanVideoTransformer3DModel"
#: A tensor of every transformer, and the one that shows width and channels; in original names and in diffusers'.
TRANSFORMER_NAMES = (
    ("txt_in.individual_token_refiner.blocks.0.norm1.weight", "img_in.proj.weight"),
    ("context_embedder.token_refiner.refiner_blocks.0.norm1.weight", "x_embedder.proj.weight"),
)
#: What a GGUF may be by the architecture it states.
GGUF_KINDS = {"hyvid": TRANSFORMER, "llama": LLAMA}
LLAMA_WIDTH, CLIP_WIDTH, VISION_WIDTH, VAE_CHANNELS = 4096, 768, 1024, 16
#: Without it a CLIP vision tower is some other model's.
PROJECTOR = "multi_modal_projector.linear_1.weight"

#: Where each part can be had.
SOURCES = {TRANSFORMER: downloads.T2V, VAE: downloads.VAE, LLAMA: downloads.LLM, CLIP: downloads.CLIP_L}
ALTERNATIVES = {
    TRANSFORMER: (
        "or half as large: hunyuan_video_720_cfgdistill_fp8_e4m3fn.safetensors",
        "from https://huggingface.co/Kijai/HunyuanVideo_comfy",
    ),
}
#: Only what is not HunyuanVideo's own has so few tokens. Source: LLaVA-Llama-3's padding token is 128258.
LLAMA_3_TOKENS, LLAVA_TOKENS = 128_000, 128_259
LORA_MARKS = ("lora_down", "lora_up", ".lora_A.", ".lora_B.")

#: The loaders' own one-line descriptions by kind; each raises an exception for a file that it refuses.
Describe = Mapping[str, Callable[[Path], str]]


@dataclass(frozen=True)
class Found:
    """A file or folder that belongs to HunyuanVideo, or cannot be read although it should; ``usable`` by the nodes."""

    path: Path
    kind: str
    note: str
    usable: bool = True


def loaders() -> Describe:
    """The core's judgement of each kind. Raises ``ImportError`` where what it needs is not installed."""
    from hyvideo_core.weights import describe_clip, describe_mllm, describe_vae, describe_vision, inspect_dit, kind_of

    def describe_transformer(path: Path) -> str:
        found = inspect_dit(path)
        ambiguous = found.config.in_channels == TEXT_TO_VIDEO_CHANNELS and IMAGE_TO_VIDEO_NAME.search(path.name)
        kind = kind_of(found.config, TOKEN_REPLACE if ambiguous else "auto")
        if kind == TOKEN_REPLACE:
            return f"by its name a transformer for {kind}: choose that kind in HyVideo Load Model"
        if kind != TEXT_TO_VIDEO:
            return f"a transformer for {kind}: {WITH_IMAGE}"
        return found.describe()

    return {
        TRANSFORMER: describe_transformer,
        VAE: describe_vae,
        LLAMA: describe_mllm,
        CLIP: describe_clip,
        VISION: describe_vision,
    }


def scan(folders: Iterable[Path], describe: Describe | None = None, pipelines: Iterable[Path] = ()) -> list[Found]:
    """Every recognised or damaged model below ``folders``, each once, and the transformers of ``pipelines``.

    ``describe`` is what ``loaders`` gives and finds text models in folders too; without it headers alone are read.
    """
    folders = list(folders)
    files: dict[Path, Found | None] = {}
    whole: set[Path] = set()
    for folder in (*folders, *pipelines):
        for config in sorted((*folder.glob("*/config.json"), *folder.glob("*/transformer/config.json"))):
            if (found := _whole(config.parent, describe, folder in folders)) is not None:
                whole.add((folder / config.relative_to(folder).parts[0]).resolve())
                files[config.parent.resolve()] = found
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            real = path.resolve()
            known = real in files or any(parent in whole for parent in real.parents)
            if path.suffix.lower() in SUFFIXES and path.is_file() and not known:
                files[real] = None if _is_scale_map(path) else recognise(path, describe)
    return [found for found in files.values() if found is not None]


def _whole(folder: Path, describe: Describe | None, with_text: bool) -> Found | None:
    """The model whose shards and configuration fill a folder, if it is one of ours."""
    if _diffusers_class(folder / "config.json") == DIFFUSERS_CLASS:
        if describe is None:
            return Found(folder, TRANSFORMER, "diffusers folder")
        return judged(folder, {TRANSFORMER: describe[TRANSFORMER]}, certain=True)
    parts = [recognise(path) for path in folder.glob("*.safetensors")] if describe and with_text else []
    kinds = {part.kind for part in parts if part is not None} & {LLAMA, CLIP}
    return judged(folder, {kind: describe[kind] for kind in kinds}, certain=True) if describe and kinds else None


def _diffusers_class(config: Path) -> str:
    try:
        return str(json.loads(config.read_text("utf-8")).get("_class_name", ""))
    except (OSError, ValueError, AttributeError):
        return ""


def _is_scale_map(path: Path) -> bool:
    """Whether a pickle holds the scales of the one beside it, which the loader then reads by itself."""
    beside = path.with_name(path.stem.removesuffix("_map") + path.suffix)
    return path.suffix.lower() in PICKLES and beside != path and beside.is_file()


def recognise(path: Path, describe: Describe | None = None) -> Found | None:
    """What a file is; None if it is some other model's."""
    suffix = path.suffix.lower()
    if suffix == GGUF:
        return _recognise_gguf(path, describe)
    if suffix in PICKLES:
        return judged(path, describe or {}, certain=False)
    try:
        kind, note, usable = classify(read_shapes(path))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, struct.error) as error:
        return Found(path, "", f"damaged: {error}. Download it again", usable=False)
    if kind and describe:
        return judged(path, {kind: describe[kind]}, certain=True)
    return Found(path, kind, note, usable) if kind else None


def _recognise_gguf(path: Path, describe: Describe | None) -> Found | None:
    try:
        stated = GGUF_KINDS.get(gguf_architecture(path), "")
    except OSError as error:
        return Found(path, "", f"damaged: {error}", usable=False)
    # Language models of other kinds are many, and no concern of ours.
    certain = stated == TRANSFORMER
    if describe:
        kinds = [stated] if stated else [TRANSFORMER, LLAMA]
        return judged(path, {kind: describe[kind] for kind in kinds}, certain)
    return Found(path, TRANSFORMER, "GGUF") if certain else judged(path, {}, certain)


def gguf_architecture(path: Path) -> str:
    """What a GGUF says it is, where it says so first, as gguf's own writer does; else empty.

    Source: ggml ``docs/gguf.md``: 24 bytes of counts, then entries of key length, key, type, value length, value.
    """
    with path.open("rb") as file:
        start = file.read(128)
    if start[:4] != b"GGUF" or start[32:52] != b"general.architecture" or len(start) < 64:
        return ""
    (length,) = struct.unpack_from("<Q", start, 56)
    return start[64 : 64 + length].decode("utf-8", "replace")


def judged(path: Path, describe: Describe, certain: bool) -> Found | None:
    """What the loaders of these kinds say; if all refuse, why, where it is ``certain`` to be ours or has our name."""
    reasons = [] if describe else ["not examined: only torch can open it"]
    if path.suffix.lower() in PICKLES and path.is_file() and not zipfile.is_zipfile(path):
        # It would have to be read whole.
        reasons, describe = ["not examined: it is damaged, or of a format older than torch 1.6"], {}
    for kind, words in describe.items():
        try:
            return Found(path, kind, words(path))
        except Exception as error:  # a refusal, or whatever a damaged file may raise
            reasons.append(str(error))
    if not certain and not OWN_NAME.search(path.name):
        return None
    return Found(path, next(iter(describe), "") if len(describe) == 1 else "", reasons[0], usable=False)


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Tensor shapes by name; ``ValueError`` for a file that is not whole."""
    size = path.stat().st_size
    with path.open("rb") as file:
        (header_bytes,) = struct.unpack("<Q", file.read(8))
        if header_bytes > min(size - 8, MAX_HEADER_BYTES):
            raise ValueError(f"the header says {header_bytes} bytes, the file has {size}")
        header = json.loads(file.read(header_bytes))
    header.pop("__metadata__", None)
    needed = 8 + header_bytes + max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if needed != size:
        raise ValueError(f"{needed} bytes were expected, the file has {size}")
    return {name: tuple(entry["shape"]) for name, entry in header.items()}


def damage(path: Path) -> str:
    """What is wrong with a safetensors file that ought to be there; empty if it is whole."""
    try:
        read_shapes(path)
    except FileNotFoundError:
        return "missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        return f"damaged: {error}"
    return ""


def classify(shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, str, bool]:
    """Kind, description, and whether the loaders take such a part; an empty kind for what is not HunyuanVideo's.

    The loaders decide by more than this; the doctor must also work where nothing is installed.
    """

    def shape(name: str) -> tuple[int, ...]:
        return next((shapes[prefix + name] for prefix in PREFIXES if prefix + name in shapes), ())

    patch = next((shape(patch) for anchor, patch in TRANSFORMER_NAMES if shape(anchor)), ())
    if patch:
        width, channels = patch[:2]
        if any(mark in name for name in shapes for mark in LORA_MARKS):
            return TRANSFORMER, "with the tensors of a LoRA among its own, which the loader refuses", False
        if channels in OTHER_CHANNELS:
            return TRANSFORMER, f"for {OTHER_CHANNELS[channels]}: {WITH_IMAGE}", True
        if channels != TEXT_TO_VIDEO_CHANNELS:
            return TRANSFORMER, f"for another task, with {channels} input channels", False
        return TRANSFORMER, f"{TEXT_TO_VIDEO}, width {width}", True
    if (convolution := shape("decoder.conv_in.conv.weight"))[1:2] == (VAE_CHANNELS,):
        layout = "original" if shape("decoder.conv_norm_out.weight") else "ComfyUI"
        return VAE, f"video VAE in {layout} names, {len(convolution)}-dimensional convolutions", True
    if (embedding := shape("embed_tokens.weight"))[1:] == (LLAMA_WIDTH,) and shape("layers.0.self_attn.q_proj.weight"):
        return _language_model(embedding[0])
    if shape("text_model.embeddings.token_embedding.weight")[1:] == (CLIP_WIDTH,):
        return CLIP, "CLIP-L text encoder", True
    if shape("vision_model.embeddings.patch_embedding.weight")[:1] == (VISION_WIDTH,) and shape(PROJECTOR):
        return VISION, "with its projector, for prompts with images", True
    return "", "", False


def _language_model(tokens: int) -> tuple[str, str, bool]:
    if tokens >= LLAVA_TOKENS:
        return LLAMA, f"Llama, {tokens:,} tokens", True
    if tokens >= LLAMA_3_TOKENS:
        return LLAMA, f"plain Llama-3 with {tokens:,} tokens, but LLaVA-Llama-3 with its 128,320 is needed", False
    return "", "", False


def comfyui_folders(comfyui: Path) -> dict[str, list[Path]]:
    """By name, the folders in which this ComfyUI looks for parts and LoRAs: by its own code, else its standard ones."""
    names = (*FOLDERS, LORAS)
    code = (
        "import json, os, sys; sys.path.insert(0, '.'); import folder_paths\n"
        "from utils.extra_config import load_extra_path_config\n"
        "if os.path.isfile('extra_model_paths.yaml'): load_extra_path_config('extra_model_paths.yaml')\n"
        f"known = [k for k in {names!r} if k in folder_paths.folder_names_and_paths]\n"
        "print(json.dumps({k: folder_paths.get_folder_paths(k) for k in known}))"
    )
    probe = subprocess.run(
        [sys.executable, "-c", code], cwd=comfyui, capture_output=True, text=True, env=clean_environment()
    )
    asked = json.loads(probe.stdout.splitlines()[-1]) if probe.returncode == 0 else {}
    return {name: [*map(Path, asked.get(name, [])), comfyui / "models" / name] for name in names}


def count_loras(folders: Iterable[Path]) -> int:
    """How many files there are that the LoRA node lists; whether they fit is seen when they are loaded."""
    suffixes = (*SAFETENSORS, *PICKLES)
    return len({p.resolve() for folder in folders for p in folder.rglob("*") if p.suffix.lower() in suffixes})


def existing(folders: Iterable[Path]) -> list[Path]:
    """The folders that exist, each once, in their order."""
    unique = {folder.resolve(): folder for folder in folders if folder.is_dir()}
    return list(unique.values())


def make_folders(models: Path) -> None:
    """Make the folders below ``models`` that the parts belong in."""
    for source in SOURCES.values():
        (models / source.folder).mkdir(parents=True, exist_ok=True)
