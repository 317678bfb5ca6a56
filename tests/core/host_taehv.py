"""ComfyUI's own TAEHV, run in a process of its own: ``python host_taehv.py COMFYUI WEIGHTS OUT SPACE TIME``.

WEIGHTS holds the decoder's tensors and ``latents`` [B, 16, T, H, W] in VAE space; OUT gets ``frames`` of RGB.
SPACE and TIME are three digits each: whether a stage doubles the size, the frames.
"""

from __future__ import annotations

import sys

import torch
from safetensors.torch import load_file, save_file


def main(host: str, weights: str, out: str, space: str, time: str) -> None:
    """Decode."""
    sys.argv = [sys.argv[0], "--cpu"]
    sys.path.insert(0, host)
    import comfy.options

    comfy.options.enable_args_parsing()
    from comfy.latent_formats import HunyuanVideo
    from comfy.taesd.taehv import TAEHV, TGrow

    tensors = load_file(weights)
    latents = tensors.pop("latents")
    module = TAEHV(
        16,
        decoder_space_upscale=[bool(int(digit)) for digit in space],
        decoder_time_upscale=[bool(int(digit)) for digit in time],
        latent_format=HunyuanVideo,
    )
    for number, layer in enumerate(module.decoder):
        if isinstance(layer, TGrow):
            name = f"decoder.{number}.conv.weight"
            tensors[name] = tensors[name][-layer.conv.weight.shape[0] :]
    module.load_state_dict(tensors, strict=False)
    with torch.inference_mode():
        save_file({"frames": module.decode(latents).contiguous()}, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
