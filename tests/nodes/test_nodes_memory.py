"""Memory of the server's process over many jobs, what is given back on request, and when weights are read."""

from __future__ import annotations

from collections import Counter

import jobs
import pytest
import torch
from safetensors.torch import load_file

import models
from tools.paths import TOY_MODELS

#: What readings of the same state differ by. Everything that could be left behind is made at least thrice as large.
GROWTH_MIB = 15
JOBS = 20
#: Enough for one job of each of the three kinds, and a second one when everything is loaded.
WARM_UP_JOBS = 6
MIB = 2**20
CHEAP = {"model.model": "cheap.safetensors", "sampler.steps": 1}


@pytest.fixture
def cheap_models(place):
    """Models that make and decode large clips in next to no time."""
    place("diffusion_models/cheap.safetensors", models.cheap_transformer())
    models.write_cheap_vae(place("vae/cheap.safetensors", b""))


def varied(number):
    """Three sizes and lengths of prompt in turn; seeds and prompts never the same."""
    kind = number % 3
    return CHEAP | {
        "sampler.seed": 1000 + number,
        "prompt.prompt": f"Scene {100 + number}: " + "a river, " * kind,
        "size.resolution.width": 96 + 32 * kind,
        "size.resolution.height": 128,
        "size.frames": 17,
    }


def clip_job(number):
    return jobs.text_to_video(varied(number) | {"vae.vae": "cheap.safetensors"})


def latents_job(number):
    return jobs.text_to_latent(varied(number) | {"size.batch_size": 32})


FRAMES_MIB = 17 * 128 * 128 * 3 * 4 / MIB
LATENTS_MIB = 32 * 16 * 5 * 16 * 16 * 4 / MIB


@pytest.mark.usefixtures("cheap_models")
@pytest.mark.parametrize(("job", "result_mib"), [(clip_job, FRAMES_MIB), (latents_job, LATENTS_MIB)])
def test_twenty_queued_jobs_succeed_without_growth(studio, job, result_mib):
    assert JOBS * result_mib >= 3 * GROWTH_MIB, "one result left behind by each job must be seen"

    def level_after(numbers):
        """Queue all of them at once; the level after the last, when nothing runs."""
        ids = [studio.client.queue(job(number)) for number in numbers]
        files = {file for job in ids for file in studio.files(studio.client.wait(job, timeout_s=300)["outputs"])}
        assert len(files) == len(numbers)
        return studio.rss_mib()

    # Both rounds end with the same kind, whose results the host keeps.
    before, after = level_after(range(-WARM_UP_JOBS, 0)), level_after(range(1, JOBS + 1))
    assert after - before < GROWTH_MIB


@pytest.fixture(scope="module")
def big_transformer():
    """A transformer of some 300 MiB in float32."""
    return models.transformer(torch.float32, hidden_size=1024, heads=8, double_blocks=1, single_blocks=1)


@pytest.fixture(scope="module")
def big_bf16(big_transformer):
    """The same in half the size."""
    return {name: tensor.bfloat16() for name, tensor in big_transformer.items()}


def size_mib(tensors):
    return sum(tensor.nbytes for tensor in tensors.values()) / MIB


def test_alternating_models_do_not_pile_up(studio, place, big_bf16):
    names = ["first.safetensors", "second.safetensors"]
    for name in names:
        place(f"diffusion_models/{name}", big_bf16)
        models.write_vae(place(f"vae/{name}", b""), load_file(TOY_MODELS / "vae" / jobs.VAE), norm_groups=32)
    assert size_mib(big_bf16) >= 3 * GROWTH_MIB
    levels, frames = [], []
    for name in names * 2:
        frames.append(studio.images({"model.model": name, "vae.vae": name, "sampler.seed": 1}))
        levels.append(studio.rss_mib())
    assert all((found == frames[0]).all() for found in frames)
    # The first pair brings what is kept whichever model runs.
    assert max(levels[2:]) - levels[1] < GROWTH_MIB, levels


@pytest.mark.parametrize(("dtype", "share"), [("bfloat16", 0.5), ("float32", 1.0)])
def test_free_gives_a_big_model_back(studio, place, big_transformer, dtype, share):
    expected_mib = share * size_mib(big_transformer)
    assert expected_mib >= 3 * GROWTH_MIB
    place("diffusion_models/big.safetensors", big_transformer)
    changes = {"model.model": "big.safetensors", "model.dtype": dtype}
    studio.latent({"model.dtype": dtype})
    studio.release()
    before = studio.rss_mib()
    first = studio.latent(changes)
    loaded = studio.rss_mib()
    assert loaded - before > 0.9 * expected_mib
    studio.release()
    assert studio.rss_mib() - before < GROWTH_MIB, (before, loaded, studio.rss_mib())
    assert torch.equal(studio.latent(changes), first)


def test_choosing_another_model_gives_the_first_one_back(studio, place, big_bf16):
    place("diffusion_models/big.safetensors", big_bf16)
    studio.latent({"sampler.seed": 21})
    before = studio.rss_mib()
    studio.latent({"sampler.seed": 22, "model.model": "big.safetensors"})
    assert studio.rss_mib() - before > 0.8 * size_mib(big_bf16)
    studio.latent({"sampler.seed": 23})
    assert studio.rss_mib() - before < GROWTH_MIB


EVERY_MODULE = Counter({"transformer": 1, "text encoders": 1, "vae": 1})


def test_the_weights_of_each_module_are_read_once_for_many_jobs(studio):
    studio.release()
    before = studio.reads()
    for seed, prompt in enumerate(("A river.", "A red car drives through the rain.", "A dog.")):
        studio.images({"sampler.seed": seed, "prompt.prompt": prompt})
    assert studio.reads() - before == EVERY_MODULE
    studio.release()
    studio.images({"sampler.seed": 4, "prompt.prompt": "A tree."})
    assert studio.reads() - before == EVERY_MODULE + EVERY_MODULE


@pytest.mark.parametrize(
    "changes",
    [{"model.attention": "chunked"}, {"model.dtype": "bfloat16"}, {"encoders.dtype": "bfloat16"}],
    ids=lambda changes: next(iter(changes)),
)
def test_a_setting_that_leaves_the_weights_as_they_are_reads_none(studio, changes):
    studio.latent({"sampler.seed": 61})
    before = studio.reads()
    studio.latent({"sampler.seed": 62} | changes)
    assert studio.reads() == before


def test_unloading_while_results_are_kept_reloads_for_the_next_job(studio):
    first = studio.latent()
    before = studio.reads()
    studio.client.free(unload_models=True, free_memory=False)
    # The request may be carried out after the first of these jobs.
    latents = [studio.latent({"sampler.seed": seed}) for seed in (31, 32)]
    assert studio.reads() - before == Counter({"transformer": 1})
    assert all(torch.isfinite(latent).all() and not torch.equal(latent, first) for latent in latents)
