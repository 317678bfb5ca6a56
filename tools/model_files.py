"""Which HunyuanVideo files ComfyUI would find: by the loaders' own judgement, or by headers alone without torch."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tools.console import clean_environment

FOLDERS = ("diffusion_models", "unet", "vae", "text_encoders", "clip", "LLM")
SAFETENSORS = (".safetensors", ".sft")
PICKLES = (".pt", ".pth", ".bin", ".ckpt")
SUFFIXES = (*SAFETENSORS, *PICKLES, ".gguf")
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
    "",
)

TRANSFORMER, VAE, LLAMA, CLIP = "transformer", "VAE", "language model", "CLIP-L"
KINDS = (TRANSFORMER, VAE, LLAMA, CLIP)
TEXT_TO_VIDEO_CHANNELS = 16
OTHER_CHANNELS = {32: "SkyReels image-to-video", 33: "image-to-video v1"}
LLAMA_WIDTH, CLIP_WIDTH, VAE_CHANNELS = 4096, 768, 16

#: Where each part can be had: hub repository, file in it, folder below ComfyUI's models.
SOURCES = {
    TRANSFORMER: ("Comfy-Org/HunyuanVideo_repackaged", "hunyuan_video_t2v_720p_bf16.safetensors", "diffusion_models"),
    VAE: ("Comfy-Org/HunyuanVideo_repackaged", "hunyuan_video_vae_bf16.safetensors", "vae"),
    LLAMA: ("Comfy-Org/HunyuanVideo_repackaged", "llava_llama3_fp16.safetensors", "text_encoders"),
    CLIP: ("Comfy-Org/HunyuanVideo_repackaged", "clip_l.safetensors", "text_encoders"),
}
ALTERNATIVES = {
    TRANSFORMER: "hunyuan_video_720_cfgdistill_fp8_e4m3fn.safetensors of "
    "https://huggingface.co/Kijai/HunyuanVideo_comfy (half the download, the same memory)",
}
#: Only what is not HunyuanVideo's own has so few tokens. Source: LLaVA-Llama-3's padding token is 128258.
LLAMA_3_TOKENS, LLAVA_TOKENS = 128_000, 128_259
LORA_MARKS = ("lora_down", "lora_up", ".lora_A.", ".lora_B.")

#: The loaders' own one-line descriptions by kind; each raises an exception for a file that it refuses.
Describe = Mapping[str, Callable[[Path], str]]


@dataclass(frozen=True)
class Found:
    """A file that belongs to HunyuanVideo, or cannot be read although it should."""

    path: Path
    kind: str
    note: str


def loaders() -> Describe:
    """The core's judgement of each kind. Raises ``ImportError`` where what it needs is not installed."""
    from hyvideo_core.errors import CheckpointError
    from hyvideo_core.weights import describe_clip, describe_dit, describe_mllm, describe_vae, detect_dit

    def describe_transformer(path: Path) -> str:
        channels = detect_dit(path).in_channels
        if channels != TEXT_TO_VIDEO_CHANNELS:
            raise CheckpointError(f"transformer for {OTHER_CHANNELS.get(channels, 'another task')}, not supported yet")
        return describe_dit(path)

    return {TRANSFORMER: describe_transformer, VAE: describe_vae, LLAMA: describe_mllm, CLIP: describe_clip}


def scan(folders: Iterable[Path], describe: Describe | None = None) -> list[Found]:
    """Every recognised or damaged model file below ``folders``, each once.

    ``describe`` is what ``loaders`` gives and finds text models in folders too; without it headers alone are read.
    """
    files: dict[Path, Found | None] = {}
    whole: set[Path] = set()
    for folder in folders:
        for config in sorted(folder.glob("*/config.json")) if describe else []:
            if kinds := _text_kinds(config.parent):
                whole.add(config.parent.resolve())
                files[config.parent.resolve()] = judged(config.parent, {kind: describe[kind] for kind in kinds})
        for path in sorted(folder.rglob("*")):
            known = path.resolve() in files or path.parent.resolve() in whole
            if path.suffix.lower() in SUFFIXES and path.is_file() and not known:
                files[path.resolve()] = recognise(path, describe)
    return [found for found in files.values() if found is not None]


def _text_kinds(folder: Path) -> set[str]:
    """Which text models the safetensors in a folder are parts of."""
    parts = [recognise(path) for path in folder.glob("*.safetensors")]
    return {part.kind for part in parts if part is not None} & {LLAMA, CLIP}


def recognise(path: Path, describe: Describe | None = None) -> Found | None:
    """What a file is; None if it is some other model's."""
    if path.suffix.lower() not in SAFETENSORS:
        return judged(path, describe or {})
    try:
        kind, note = classify(read_shapes(path))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, struct.error) as error:
        return Found(path, "", f"damaged: {error}. Download it again")
    if kind and describe:
        return judged(path, {kind: describe[kind]})
    return Found(path, kind, note) if note else None


def judged(path: Path, describe: Describe) -> Found | None:
    """What the loaders of these kinds say; None if all refuse a file that does not even have the model's name."""
    reasons = [] if describe else ["not examined: only torch can open it"]
    if path.suffix.lower() in PICKLES and not zipfile.is_zipfile(path):
        # It would have to be read whole.
        reasons, describe = ["not examined: it is damaged, or of a format older than torch 1.6"], {}
    for kind, words in describe.items():
        try:
            return Found(path, kind, words(path))
        except Exception as error:  # a refusal, or whatever a damaged file may raise
            reasons.append(str(error))
    is_named = len(describe) == 1 or any(mark in path.name.lower() for mark in ("hunyuan", "mp_rank_00_model_states"))
    return Found(path, "", reasons[0]) if is_named else None


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


def classify(shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, str]:
    """Kind and description of a HunyuanVideo part; an empty kind for what the loaders do not take.

    The loaders decide by more than this; the doctor must also work where nothing is installed.
    """

    def shape(name: str) -> tuple[int, ...]:
        return next((shapes[prefix + name] for prefix in PREFIXES if prefix + name in shapes), ())

    if shape("txt_in.individual_token_refiner.blocks.0.norm1.weight") and (patch := shape("img_in.proj.weight")):
        width, channels = patch[:2]
        if any(mark in name for name in shapes for mark in LORA_MARKS):
            return "", "transformer with the tensors of a LoRA among its own, which the loader refuses"
        if channels != TEXT_TO_VIDEO_CHANNELS:
            return "", f"transformer for {OTHER_CHANNELS.get(channels, 'another task')}, not supported yet"
        return TRANSFORMER, f"text-to-video, width {width}"
    if (convolution := shape("decoder.conv_in.conv.weight"))[1:2] == (VAE_CHANNELS,):
        layout = "original" if shape("decoder.conv_norm_out.weight") else "ComfyUI"
        return VAE, f"video VAE in {layout} names, {len(convolution)}-dimensional convolutions"
    if (embedding := shape("embed_tokens.weight"))[1:] == (LLAMA_WIDTH,) and shape("layers.0.self_attn.q_proj.weight"):
        return _language_model(embedding[0])
    if shape("text_model.embeddings.token_embedding.weight")[1:] == (CLIP_WIDTH,):
        return CLIP, "CLIP-L text encoder"
    return "", ""


def _language_model(tokens: int) -> tuple[str, str]:
    if tokens >= LLAVA_TOKENS:
        return LLAMA, f"Llama, {tokens:,} tokens"
    if tokens >= LLAMA_3_TOKENS:
        return "", f"plain Llama-3 with {tokens:,} tokens, but LLaVA-Llama-3 with its 128,320 is needed"
    return "", ""


def comfyui_folders(comfyui: Path) -> list[Path]:
    """The folders in which this ComfyUI looks for the parts, by its own code, else its standard ones."""
    code = (
        "import json, os, sys; sys.path.insert(0, '.'); import folder_paths\n"
        "from utils.extra_config import load_extra_path_config\n"
        "if os.path.isfile('extra_model_paths.yaml'): load_extra_path_config('extra_model_paths.yaml')\n"
        f"known = [p for k in {FOLDERS!r} if k in folder_paths.folder_names_and_paths"
        " for p in folder_paths.get_folder_paths(k)]\n"
        "print(json.dumps(known))"
    )
    probe = subprocess.run(
        [sys.executable, "-c", code], cwd=comfyui, capture_output=True, text=True, env=clean_environment()
    )
    asked = [Path(path) for path in json.loads(probe.stdout.splitlines()[-1])] if probe.returncode == 0 else []
    standard = [comfyui / "models" / name for name in FOLDERS]
    return existing([*asked, *standard])


def existing(folders: Iterable[Path]) -> list[Path]:
    """The folders that exist, each once, in their order."""
    unique = {folder.resolve(): folder for folder in folders if folder.is_dir()}
    return list(unique.values())


def make_folders(models: Path) -> None:
    """Make the folders below ``models`` that the parts belong in."""
    for _, _, folder in SOURCES.values():
        (models / folder).mkdir(parents=True, exist_ok=True)
