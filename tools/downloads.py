"""The real model's files on the hub: the one table of what there is to download, for notes, doctor and server.

Sizes are those that the hub shows. Needs nothing but Python: the doctor also runs where nothing is installed.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Download:
    """A file of the hub: its repository, its path there, the folder inside ``models`` it belongs in, and its size."""

    repository: str
    path: str
    folder: str
    size: str

    @property
    def file(self) -> str:
        """Its name."""
        return self.path.rsplit("/", 1)[-1]

    @property
    def page(self) -> str:
        """The address of its repository."""
        return f"https://huggingface.co/{self.repository}"

    @property
    def url(self) -> str:
        """The address of the file itself."""
        return f"{self.page}/resolve/main/{self.path}"


def _repackaged(folder: str, file: str, size: str) -> Download:
    return Download("Comfy-Org/HunyuanVideo_repackaged", f"split_files/{folder}/{file}", folder, size)


T2V = _repackaged("diffusion_models", "hunyuan_video_t2v_720p_bf16.safetensors", "25.6 GB")
I2V = _repackaged("diffusion_models", "hunyuan_video_v2_replace_image_to_video_720p_bf16.safetensors", "25.6 GB")
LLM = _repackaged("text_encoders", "llava_llama3_fp16.safetensors", "16.1 GB")
CLIP_L = _repackaged("text_encoders", "clip_l.safetensors", "246 MB")
VISION = _repackaged("clip_vision", "llava_llama3_vision.safetensors", "649 MB")
VAE = _repackaged("vae", "hunyuan_video_vae_bf16.safetensors", "493 MB")
KEYFRAME_LORA = Download("dashtoon/hunyuan-video-keyframe-control-lora", "i2v.sft", "loras", "1.15 GB")
ALL = (T2V, I2V, LLM, CLIP_L, VISION, VAE, KEYFRAME_LORA)
