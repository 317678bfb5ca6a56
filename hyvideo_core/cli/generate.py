"""One call from prompt to files: encode, sample every video, decode them, each with its models alone in memory."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path

import torch
from tqdm import tqdm

from hyvideo_core import video
from hyvideo_core.cli import naming
from hyvideo_core.cli.arguments import NEGATIVE_PROMPT, Arguments
from hyvideo_core.cli.machine import Machine, available_bytes
from hyvideo_core.cli.planning import DIT_DTYPE, TEXT_ACTIVATION_BYTES, Job, planned
from hyvideo_core.decoding_plan import with_smaller_tiles
from hyvideo_core.errors import PromptError
from hyvideo_core.extensions import BlockSwap, Loras
from hyvideo_core.memory import Placement, streamed, transfers_for
from hyvideo_core.sample import flow_sigmas, sample
from hyvideo_core.sample.noise import first_noise
from hyvideo_core.sample.run import check_run
from hyvideo_core.sampling_plan import SamplingPlan, retrying
from hyvideo_core.text import IMAGE, VIDEO, TextEncoders
from hyvideo_core.types import Conditioning
from hyvideo_core.vae import VAE, Tiling
from hyvideo_core.vae.images import decoded_images
from hyvideo_core.weights import load_clip, load_dit, load_mllm, load_vae

logger = logging.getLogger(__name__)

#: Part of the free memory of the host that may be page-locked for weights that stream.
LOCKED_SHARE = 0.5
#: How the videos are saved: H.264 at the model's 24 frames a second.
SAVED = video.Video(fps=24.0)


def generate(arguments: Arguments) -> Iterator[Path]:
    """Make the videos; yields each file's path once it is written.

    Raises ``HyVideoError``, ``ValueError`` or ``OSError`` for files and settings that do not work.
    """
    machine = Machine(arguments.device, None if arguments.vram is None else int(arguments.vram * 1e9))
    job = planned(arguments, machine)
    for line in job.describe():
        logger.info("%s", line)
    # Before hours are spent on what could not be saved.
    arguments.save_path.mkdir(parents=True, exist_ok=True)
    video.check(SAVED)
    prompts = _encoded(job)
    machine.release()
    latents = _sampled(job, *prompts)
    machine.release()
    yield from _decoded(job, latents)


def _encoded(job: Job) -> tuple[Conditioning, Conditioning | None]:
    """The prompt, and above cfg 1 the negative prompt."""
    arguments = job.arguments
    template = VIDEO if arguments.video_length > 1 else IMAGE
    with _encoders(job) as encoders:

        def encode(name: str, text: str) -> Conditioning:
            try:
                return encoders.encode([text], template).to("cpu")
            except PromptError as error:
                raise PromptError(f"argument {name}: {error}") from error

        positive = encode("--prompt", arguments.prompt)
        if arguments.cfg_scale == 1:
            return positive, None
        return positive, encode("--neg-prompt", arguments.neg_prompt or NEGATIVE_PROMPT)


@contextmanager
def _encoders(job: Job) -> Iterator[TextEncoders]:
    """Both text encoders where they run, the language model's layers streaming there if that is the plan."""
    arguments, dtype, device = job.arguments, job.text_dtype, job.text_device
    read_to = torch.device("cpu") if job.text_streams else device
    encoders = TextEncoders(
        load_mllm(arguments.text_encoder, tokenizer=job.llm_tokenizer, dtype=dtype, device=read_to),
        load_clip(arguments.clip, tokenizer=job.clip_tokenizer, dtype=dtype, device=read_to),
    )
    with ExitStack() as stack:
        if job.text_streams:
            placement = Placement(encoders, list(encoders.get_submodule("mllm.llama.layers").children()), device)
            stack.callback(placement.release)
            placement.put(placement.fitting(job.machine.free_bytes() - TEXT_ACTIVATION_BYTES))
            stack.enter_context(streamed(placement.waiting(), device, transfers_for(device)))
        yield encoders


def _sampled(job: Job, positive: Conditioning, negative: Conditioning | None) -> list[torch.Tensor]:
    """A latent [1, C, T, H, W] in VAE space for each seed, on the host."""
    seeds, at_once = job.arguments.seeds, job.arguments.batch_size
    noise = [_noise(job, seed) for seed in seeds]
    check_run(job.transformer.config, noise[0], positive, negative, job.arguments.guidance)
    latents: list[torch.Tensor] = []
    with ExitStack() as stack:
        sampler = _Sampler(job, positive, negative, stack)
        job.machine.watch_peak()
        for start in range(0, len(seeds), at_once):
            x = torch.cat(noise[start : start + at_once])
            x = sampler(x, f"sampling, {len(latents) + len(x)} of {len(seeds)}")
            latents += (x / job.vae.scaling_factor).cpu().split(1)
    logger.info("sampling: %s, predicted %.2f GB", job.machine.measured_peak(), sampler.plan.peak_bytes / 1e9)
    return latents


class _Sampler:
    """The transformer, placed by the plan, or by a lower one once the device has run out of memory."""

    def __init__(self, job: Job, positive: Conditioning, negative: Conditioning | None, stack: ExitStack) -> None:
        arguments = job.arguments
        self.plan, self._machine = job.sampling, job.machine
        self._positive, self._negative, self._guidance = positive, negative, arguments.guidance
        self._sigmas = flow_sigmas(arguments.infer_steps, arguments.flow_shift, arguments.flow_reverse)
        self._dit = load_dit(arguments.dit, dtype=DIT_DTYPE, storage=job.storage, quantise_on=job.machine.device)
        self._dit.attention = arguments.attention
        self._placement: Placement | None = None
        # On a CPU weights are where they are computed with, unless they are asked to stream.
        if job.machine.on_gpu or self.plan.resident_blocks < self.plan.blocks:
            blocks = [*self._dit.double_blocks, *self._dit.single_blocks]
            self._placement = Placement(self._dit, blocks, job.machine.device)
            stack.callback(self._placement.release)
        self._extensions = [BlockSwap(waiting=self._waiting), Loras(loras=tuple(arguments.lora))]

    def __call__(self, x: torch.Tensor, title: str) -> torch.Tensor:
        """The latent that comes of the noise ``x``, both in model space."""
        return retrying(self.plan, partial(self._attempt, x, title), logger.warning)

    def _attempt(self, x: torch.Tensor, title: str, plan: SamplingPlan) -> torch.Tensor:
        is_lower = plan is not self.plan
        self.plan, self._dit.head_groups = plan, plan.head_groups
        if self._placement is not None:
            self._placement.put(plan.resident_blocks)
            self._placement.lock(int(available_bytes() * LOCKED_SHARE))
        if is_lower:
            # Of what was too much for the device nothing is told.
            self._machine.watch_peak()
        run = sample(
            self._dit,
            x,
            self._positive,
            negative=self._negative,
            sigmas=self._sigmas,
            guidance=self._guidance,
            extensions=self._extensions,
        )
        with closing(run):  # type: ignore[type-var]
            for step in tqdm(run, title, total=len(self._sigmas) - 1, unit="step"):
                x = step.x
        return x

    def _waiting(self) -> list[torch.nn.Module]:
        return [] if self._placement is None else self._placement.waiting()


def _noise(job: Job, seed: int) -> torch.Tensor:
    """Where a video begins, here and in the nodes."""
    return first_noise((1, *job.sampling.latent_shape[1:]), seed)


def _decoded(job: Job, latents: list[torch.Tensor]) -> Iterator[Path]:
    """The files of the latents, one after the other."""
    machine, tiling = job.machine, job.tiling
    vae = load_vae(job.arguments.vae, dtype=job.vae_dtype, device=machine.device)
    machine.watch_peak()

    def make_room() -> None:
        machine.release()
        machine.watch_peak()

    for seed, latent in zip(job.arguments.seeds, latents, strict=True):
        # What was too large for one video is not tried again for the next.
        path, tiling = with_smaller_tiles(partial(_written, job, vae, latent, seed), job.vae, tiling, make_room)
        yield path
    logger.info("decoding: %s, predicted %.2f GB", machine.measured_peak(), job.decoding_bytes(tiling) / 1e9)


def _written(job: Job, vae: VAE, latent: torch.Tensor, seed: int, tiling: Tiling) -> tuple[Path, Tiling]:
    """The path of the video, decoded straight into its file, and the tiles it was decoded in."""
    with tqdm(desc=f"decoding, seed {seed}", unit="part") as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        frames = decoded_images(vae, latent, tiling, progress)
        paths = naming.paths(job.arguments.save_path, datetime.now(), seed, job.arguments.prompt)
        return video.write(frames, paths, SAVED).path, tiling
