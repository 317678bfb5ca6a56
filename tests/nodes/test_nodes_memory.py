"""Memory of the server's process over many jobs, and what is given back on request."""

from __future__ import annotations

import jobs
import pytest
import torch
from safetensors.torch import load_file

from hyvideo_core.configs import DiTConfig
from hyvideo_core.model.dit import DiT
from tools.demo_model import build
from tools.paths import DEMO_MODELS

#: Allocator noise; one clip and its intermediates are a few MiB, the smallest model 13, all together 110.
GROWTH_MIB = 60
JOBS = 20
BIG = {**build.TRANSFORMER_CONFIG, "hidden_size": 1024, "heads": 8, "double_blocks": 1, "single_blocks": 1}


def test_twenty_queued_jobs_succeed_without_growth(studio):
    def round_of_jobs(first: int) -> float:
        """Queue all of them at once; the level after the last, when nothing runs."""
        ids = [studio.client.queue(varied_job(first + number)) for number in range(JOBS)]
        files = {file for job in ids for file in studio.files(studio.client.wait(job, timeout_s=120)["outputs"])}
        assert len(files) == JOBS
        return studio.rss_mib()

    # The first round loads the models and brings every size the allocator's free lists will keep.
    levels = [round_of_jobs(first) for first in (0, JOBS)]
    assert levels[1] - levels[0] < GROWTH_MIB, levels


def varied_job(number: int) -> jobs.Json:
    """A clip of one of three sizes, seeds and prompts never the same."""
    return jobs.text_to_video(
        {
            "sampler.seed": number,
            "prompt.prompt": f"Scene {number}: " + "a river, " * (number % 7),
            "size.resolution.width": 64 + 16 * (number % 3),
            "size.frames": 5 + 4 * (number % 3),
        }
    )


def test_alternating_models_do_not_pile_up(studio, place):
    transformer = load_file(DEMO_MODELS / "diffusion_models" / jobs.MODEL)
    vae = load_file(DEMO_MODELS / "vae" / jobs.VAE)
    place("diffusion_models/second.safetensors", transformer)
    # The toy VAE's norm groups are not in its shapes.
    build.write(place("vae/second.safetensors", b""), vae, {"config": '{"norm_num_groups": 32}'})
    levels, frames = [], {}
    for number in range(8):
        second = bool(number % 2)
        changes = {"model.model": "second.safetensors", "vae.vae": "second.safetensors"} if second else {}
        levels.append(studio.rss_mib())
        frames.setdefault(second, studio.images(changes | {"sampler.seed": 1}))
        studio.drop_results()
    assert (frames[True] == frames[False]).all()
    assert max(levels[4:]) - levels[3] < GROWTH_MIB, levels


@pytest.fixture(scope="module")
def big_transformer():
    """A transformer of some 300 MiB in float32."""
    return build.tensors(DiT(DiTConfig(**BIG)), torch.float32)


@pytest.mark.parametrize(("dtype", "share"), [("bfloat16", 0.5), ("float32", 1.0)])
def test_free_gives_a_big_model_back(studio, place, big_transformer, dtype, share):
    size_mib = share * sum(tensor.nbytes for tensor in big_transformer.values()) / 2**20
    assert size_mib > 120
    place("diffusion_models/big.safetensors", big_transformer)
    changes = {"model.model": "big.safetensors", "model.dtype": dtype}
    studio.latent()
    studio.release()
    before = studio.rss_mib()
    first = studio.latent(changes)
    loaded = studio.rss_mib()
    assert loaded - before > 0.9 * size_mib
    studio.release()
    assert studio.rss_mib() - before < GROWTH_MIB, (before, loaded, studio.rss_mib())
    assert torch.equal(studio.latent(changes), first)


def test_choosing_another_model_gives_the_first_one_back(studio, place, big_transformer):
    place("diffusion_models/big.safetensors", big_transformer)
    studio.latent({"sampler.seed": 21})
    before = studio.rss_mib()
    studio.latent({"sampler.seed": 22, "model.model": "big.safetensors"})
    assert studio.rss_mib() - before > 100
    studio.latent({"sampler.seed": 23})
    assert studio.rss_mib() - before < GROWTH_MIB


def test_unloading_while_results_are_kept_reloads_for_the_next_job(studio):
    first = studio.latent()
    studio.client.free(unload_models=True, free_memory=False)
    again = studio.latent({"sampler.seed": 31})
    assert torch.isfinite(again).all()
    assert not torch.equal(again, first)
