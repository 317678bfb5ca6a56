"""Which HunyuanVideo files ComfyUI would find, told from their headers; needs no package, reads no weights."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tools.console import clean_environment

FOLDERS = ("diffusion_models", "unet", "vae", "text_encoders", "clip", "LLM")
SUFFIXES = (".safetensors", ".sft", ".pt", ".pth", ".bin", ".gguf")
MAX_HEADER_BYTES = 100_000_000
PREFIXES = ("model.diffusion_model.", "diffusion_model.", "model.model.", "model.", "vae.", "")

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
    TRANSFORMER: "half the download, same memory: hunyuan_video_720_cfgdistill_fp8_e4m3fn.safetensors of "
    "Kijai/HunyuanVideo_comfy",
}
#: What the last part of a name says of weights that mean nothing without their scales.
SCALED_MARKS = ("scaled_fp8", "scale_weight", "weight_scale")


@dataclass(frozen=True)
class Found:
    """A file that belongs to HunyuanVideo, or cannot be read although it should."""

    path: Path
    kind: str
    note: str


def scan(folders: Iterable[Path]) -> list[Found]:
    """Every recognised or damaged model file below ``folders``, each once."""
    files = {
        path.resolve(): path
        for folder in folders
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in SUFFIXES and path.is_file()
    }
    return [found for path in files.values() if (found := recognise(path)) is not None]


def recognise(path: Path) -> Found | None:
    """What a file is; None if it is some other model's."""
    if path.suffix.lower() not in (".safetensors", ".sft"):
        looks_like = "hunyuan" in path.name.lower() or "mp_rank_00_model_states" in path.name
        return Found(path, "", "not examined (only safetensors have a header to read)") if looks_like else None
    try:
        kind, note = classify(read_shapes(path))
    except (OSError, ValueError, struct.error) as error:
        return Found(path, "", f"damaged: {error}. Download it again")
    return Found(path, kind, note) if note else None


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

    scaled = any(name.rsplit(".", 1)[-1] in SCALED_MARKS for name in shapes)
    if shape("txt_in.individual_token_refiner.blocks.0.norm1.weight") and (patch := shape("img_in.proj.weight")):
        width, channels = patch[:2]
        if scaled:
            return "", "transformer in scaled fp8, which is not supported yet"
        if channels != TEXT_TO_VIDEO_CHANNELS:
            return "", f"transformer for {OTHER_CHANNELS.get(channels, 'an unknown variant')}, not supported yet"
        return TRANSFORMER, f"text-to-video, width {width}"
    if (convolution := shape("decoder.conv_in.conv.weight"))[1:2] == (VAE_CHANNELS,):
        layout = "original" if shape("decoder.conv_norm_out.weight") else "ComfyUI"
        return VAE, f"video VAE in {layout} names, {len(convolution)}-dimensional convolutions"
    if (embedding := shape("embed_tokens.weight"))[1:] == (LLAMA_WIDTH,) and shape("layers.0.self_attn.q_proj.weight"):
        return (
            ("", "Llama in scaled fp8, not supported yet") if scaled else (LLAMA, f"Llama, vocabulary {embedding[0]}")
        )
    if shape("text_model.embeddings.token_embedding.weight")[1:] == (CLIP_WIDTH,):
        return CLIP, "CLIP-L text encoder"
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
