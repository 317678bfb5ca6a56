"""What a call will take of the machine, from headers alone, before anything is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from hyvideo_core.attention import resolve
from hyvideo_core.cli import tokenizers
from hyvideo_core.cli.arguments import Arguments
from hyvideo_core.cli.machine import Machine
from hyvideo_core.configs import VAEConfig
from hyvideo_core.decoding_plan import choose_tiling, vae_activation_bytes
from hyvideo_core.errors import HyVideoError
from hyvideo_core.sampling_plan import SamplingPlan, plan_sampling, weights_of
from hyvideo_core.vae import Tiling
from hyvideo_core.weights import (
    TransformerFile,
    describe_clip,
    describe_mllm,
    inspect_dit,
    kind_of,
    load_vae,
    lora_bytes,
    parameter_count,
    size_on_disk_bytes,
)

#: The transformer overflows in float16; the others run in it on cards, as in the original.
DIT_DTYPE = torch.bfloat16
#: What encoding a prompt takes beside the weights of the text encoders.
TEXT_ACTIVATION_BYTES = 1 << 30
#: Of the text encoders in float16, what is on the card while the language model streams: its embedding of 128,320
#: tokens, two of its layers, and CLIP-L.
STREAMED_TEXT_BYTES = 2 * (128_320 * 4096 + 2 * 218_112_000 + 123_060_480)


@dataclass(frozen=True)
class Job:
    """How a call will be done: which files, held how, placed where."""

    arguments: Arguments
    machine: Machine
    transformer: TransformerFile
    storage: str
    sampling: SamplingPlan
    vae: VAEConfig
    vae_dtype: torch.dtype
    vae_bytes: int
    tiling: Tiling
    text_device: torch.device
    text_streams: bool
    llm_tokenizer: Path | None
    clip_tokenizer: Path | None

    @property
    def text_dtype(self) -> torch.dtype:
        """What the text encoders compute in."""
        return torch.bfloat16 if self.text_device.type == "cpu" else torch.float16

    def decoding_bytes(self, tiling: Tiling) -> int:
        """Peak of decoding in such tiles, the VAE's weights included."""
        latent, itemsize = self.arguments.geometry.latent_shape, self.vae_dtype.itemsize
        tile = (tiling.tile_size_px, tiling.tile_frames)
        return self.vae_bytes + vae_activation_bytes(latent, *tile, itemsize, self.vae)

    def describe(self) -> Iterator[str]:
        """Lines for a person."""
        arguments, size = self.arguments, self.arguments.geometry
        seeds = " to ".join(map(str, sorted({arguments.seeds[0], arguments.seeds[-1]})))
        yield f"{size.width}×{size.height}, {size.frames} frames, seed {seeds}, on {self.machine.device}"
        if (size.height, size.width) != arguments.asked_size:
            yield "size: rounded up to multiples of 16 px, which the model needs"
        if arguments.neg_prompt and arguments.cfg_scale == 1:
            yield "the negative prompt has no effect at --cfg-scale 1"
        yield f"transformer: {self.transformer.describe()}"
        if arguments.use_fp8 and self.storage == "auto":
            yield "transformer: the file is smaller than bf16 already, --use-fp8 leaves it as it is"
        yield from (f"plan of sampling: {line}" for line in self.sampling.describe().splitlines())
        yield (
            f"plan of decoding: tiles of {self.tiling.tile_size_px} px and {self.tiling.tile_frames} frames, predicted "
            f"peak {self.decoding_bytes(self.tiling) / 1e9:.2f} GB"
        )
        yield f"text encoders: {describe_mllm(arguments.text_encoder)}; {describe_clip(arguments.clip)}"
        streams = ", layers of the language model that do not fit stream to it" if self.text_streams else ""
        yield f"text encoders: on {self.text_device}{streams}"


def planned(arguments: Arguments, machine: Machine) -> Job:
    """The plan for a call. Raises ``HyVideoError`` or ``ValueError`` for what cannot be done as asked."""
    found = inspect_dit(arguments.dit)
    if (kind := kind_of(found.config)) != "text-to-video":
        raise HyVideoError(
            f"{arguments.dit.name} is a transformer for {kind}, but generate makes videos from text only. Choose a "
            "text-to-video checkpoint such as hunyuan_video_t2v_720p_bf16.safetensors."
        )
    resolve(arguments.attention, machine.device, DIT_DTYPE, found.config.head_dim)
    storage = "fp8" if arguments.use_fp8 and not found.is_packed else "auto"
    latent = arguments.geometry.latent_shape
    free = machine.free_bytes()
    sampling = plan_sampling(
        found.config,
        weights_of(found, storage, DIT_DTYPE.itemsize),
        (arguments.batch_size, found.config.in_channels, *latent),
        DIT_DTYPE.itemsize,
        free,
        resident_blocks=0 if arguments.use_cpu_offload else None,
        attention=arguments.attention,
        lora_bytes=lora_bytes(arguments.lora, found.config, DIT_DTYPE),
    )
    # On no device, so that its whole file is checked and nothing is read.
    vae = load_vae(arguments.vae, device="meta")
    dtype = torch.float16 if machine.on_gpu else torch.float32
    weights = sum(parameter.numel() for parameter in vae.parameters()) * dtype.itemsize
    text_device, text_streams = _text_placement(arguments, machine, free)
    return Job(
        arguments=arguments,
        machine=machine,
        transformer=found,
        storage=storage,
        sampling=sampling,
        vae=vae.config,
        vae_dtype=dtype,
        vae_bytes=weights,
        tiling=choose_tiling(vae.config, latent, dtype.itemsize, free - weights),
        text_device=text_device,
        text_streams=text_streams,
        llm_tokenizer=tokenizers.find(tokenizers.LLM, arguments.llm_tokenizer, arguments.text_encoder),
        clip_tokenizer=tokenizers.find(tokenizers.CLIP, arguments.clip_tokenizer, arguments.clip),
    )


def _text_placement(arguments: Arguments, machine: Machine, free_bytes: int) -> tuple[torch.device, bool]:
    """Where the text encoders run, and whether the language model streams there.

    The card if both fit it, as they run in float16 or are packed in their files, or if the language model may stream.
    """
    whole = sum(
        min(parameter_count(path) * torch.float16.itemsize, size_on_disk_bytes(path))
        for path in (arguments.text_encoder, arguments.clip)
    )
    room = free_bytes - TEXT_ACTIVATION_BYTES
    if not machine.on_gpu or arguments.use_cpu_offload or min(whole, STREAMED_TEXT_BYTES) > room:
        return torch.device("cpu"), False
    return machine.device, whole > room
