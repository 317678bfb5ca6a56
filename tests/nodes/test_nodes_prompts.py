"""Prompts beyond plain ones: weighted, with images, mixed, changing over a run, in files, remembered, rewritten."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jobs
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save, save_file

from hyvideo_core.text.embeddings_file import Provenance, load_conditioning
from hyvideo_core.text.rewrite import rewrite, rewrite_prompt
from hyvideo_core.types import Conditioning
from tools.demo_model.tokenizers import llama_tokenizer
from tools.toy_model import build

Changes = Mapping[str, Any]
CAT, DOG = "A cat walks home.", "A dog sleeps on the sofa all day."
I2V_V2, I2V_V1, IN_PROMPT = (
    "image-to-video v2 (token_replace)",
    "image-to-video v1 (latent_concat)",
    "images in the prompt",
)
EYES = "small_vision.safetensors"
#: Places an image has for the small vision tower.
PLACES = 16


# --- jobs -----------------------------------------------------------------------------------------------------


def to_file(prompt: tuple[str, int] | None = None, changes: Changes | None = None, **nodes: Any) -> jobs.Json:
    """A job that saves an encoded prompt; by default the positive one of HyVideo Encode Prompt."""
    job = jobs.text_to_latent()
    kept = {name: job[name] for name in ("encoders", "prompt")}
    kept["prompt"]["inputs"]["prompt"] = CAT
    saved = jobs.node("HyvSavePrompt", prompt=list(prompt or ("prompt", 0)), filename_prefix="test")
    return jobs.changed({**kept, **nodes, "save": saved}, changes or {})


@pytest.fixture
def saved(studio) -> Callable[[jobs.Json], tuple[Conditioning, Provenance]]:
    """What a job's node ``save`` writes."""
    return lambda job: load_conditioning(studio.files(studio.run(job))[0])


@pytest.fixture
def encoded(saved) -> Callable[..., Conditioning]:
    """The encoded prompt of ``to_file`` with these arguments."""
    return lambda *arguments, **options: saved(to_file(*arguments, **options))[0]


def same(one: Conditioning, other: Conditioning) -> bool:
    return torch.equal(one.text, other.text) and torch.equal(one.pooled, other.pooled)


# --- weights, and prompts that are too long -------------------------------------------------------------------


def test_weights_act_where_they_are_asked_for_and_are_text_elsewhere(encoded):
    plain = encoded()
    assert same(encoded(changes={"prompt.weights": True}), plain)
    assert same(encoded(changes={"prompt.weights": True, "prompt.prompt": "A (cat:1) walks home."}), plain)
    heavy = encoded(changes={"prompt.weights": True, "prompt.prompt": "A (cat:1.5) walks home."})
    assert heavy.text.shape == plain.text.shape
    assert torch.equal(heavy.pooled, plain.pooled)
    assert not torch.equal(heavy.text, plain.text)
    assert encoded(changes={"prompt.prompt": "A (cat:1.5) walks home."}).text.shape[1] > plain.text.shape[1]


def test_a_prompt_that_is_too_long_is_refused_or_cut_as_one_likes(studio, encoded):
    long = "fox " * 400
    assert "prompt: The prompt has 4" in studio.failure(to_file(changes={"prompt.prompt": long}))
    assert encoded(changes={"prompt.prompt": long, "prompt.cut": True}).text.shape[1] == 256


def test_a_bracket_without_its_partner_is_named(studio):
    message = studio.failure(to_file(changes={"prompt.weights": True, "prompt.prompt": "a (cat"}))
    assert "prompt: The prompt has a bracket without its partner" in message


# --- remembering ----------------------------------------------------------------------------------------------


def test_a_remembered_prompt_needs_no_text_encoder_until_one_of_their_files_changes(studio, encoded, place):
    clip = place("text_encoders/other_clip.safetensors", (build.ensure() / build.CLIP).read_bytes())
    remember = {"prompt.remember": True, "encoders.clip": clip.name}
    plain, first = encoded(changes={"encoders.clip": clip.name}), encoded(changes=remember)
    studio.release()
    before = studio.reads()["text encoders"]
    again = encoded(changes=remember)
    assert studio.reads()["text encoders"] == before
    assert same(plain, first)
    assert same(plain, again)
    content = clip.read_bytes()
    clip.write_bytes(content[:-2] + b"\x00\x40")
    assert not torch.equal(encoded(changes=remember).pooled, plain.pooled)
    assert studio.reads()["text encoders"] == before + 1


# --- images ---------------------------------------------------------------------------------------------------


@pytest.fixture
def eyes(place, server) -> str:
    """A vision tower whose embeddings the demo language model reads, and two pictures in the input folder."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 1}
    tower = CLIPVisionModel(CLIPVisionConfig(**sizes, image_size=56, patch_size=14))
    tensors = build.tensors(tower, torch.bfloat16, prefix="vision_model.")
    generator = torch.Generator().manual_seed(0)
    for number, taken in ((1, 64), (2, 256)):
        weight = torch.randn(256, taken, generator=generator) * taken**-0.5
        tensors[f"multi_modal_projector.linear_{number}.weight"] = weight.bfloat16()
        tensors[f"multi_modal_projector.linear_{number}.bias"] = torch.zeros(256, dtype=torch.bfloat16)
    place(f"clip_vision/{EYES}", save(tensors, {"config": json.dumps({"vision_config": sizes})}))
    for number, size in enumerate([(40, 64, 3), (50, 30, 3)]):
        pixels = np.random.default_rng(number).integers(0, 256, size, dtype=np.uint8)
        Image.fromarray(pixels).save(server.base / "input" / f"seen{number}.png")
    return EYES


def with_images(use: str, *images: int, prompt: str = CAT, output: int = 0, **changes: Any) -> jobs.Json:
    """A job that saves what HyVideo Encode Prompt with Images makes of pictures by their numbers."""
    pictures = {f"picture{number}": jobs.node("LoadImage", image=f"seen{number}.png") for number in {*images}}
    own = {f"images.image{place}": [f"picture{number}", 0] for place, number in enumerate(images)}
    own |= {"use.selection": "::4"} if use == IN_PROMPT else {"use.interleave": 4 if use == I2V_V2 else 2}
    seeing = jobs.node(
        "HyvEncodeImagePrompt", text_encoders=["encoders", 0], prompt=prompt, negative="", use=use, **own
    )
    vision = {"encoders.vision": EYES}
    return to_file(("seeing", output), vision | changes, seeing=seeing, **pictures)


def test_image_to_video_reads_the_image_before_the_prompt(saved, encoded, eyes):
    plain = encoded()
    (v2, _), (v1, _), (other, _) = (saved(with_images(*what)) for what in ((I2V_V2, 0), (I2V_V1, 0), (I2V_V2, 1)))
    # The model's turn follows the prompt in this template; its last token is kept.
    text = plain.text.shape[1]
    assert (v2.text.shape[1], v1.text.shape[1]) == (text + PLACES // 4, text + PLACES // 2)
    assert not torch.equal(v2.text, other.text)
    assert torch.equal(v2.pooled, plain.pooled)
    one, _ = saved(with_images(I2V_V2, 0, **{"seeing.use.interleave": 1}))
    assert torch.equal(one.text[:, :PLACES:4], v2.text[:, : PLACES // 4])
    both, _ = saved(with_images(I2V_V2, 0, 1))
    assert torch.equal(both.text, torch.cat((v2.text, other.text)))
    against, _ = saved(with_images(I2V_V2, 0, output=1))
    assert against.text.shape[1] > PLACES // 4
    assert same(against, saved(with_images(I2V_V2, 1, output=1))[0])


def test_images_in_the_prompt_are_read_in_their_places(saved, eyes):
    prompt = "a <image> beside <image>"
    first, _ = saved(with_images(IN_PROMPT, 0, 1, prompt=prompt))
    assert not torch.equal(saved(with_images(IN_PROMPT, 1, 0, prompt=prompt))[0].text, first.text)
    fewer, _ = saved(with_images(IN_PROMPT, 0, 1, prompt=prompt, **{"seeing.use.selection": ":3"}))
    assert fewer.text.shape[1] == first.text.shape[1] - 2
    remembered = [
        saved(with_images(IN_PROMPT, 0, each, prompt=prompt, **{"seeing.remember": True}))[0] for each in (1, 0)
    ]
    assert same(remembered[0], first)
    assert not torch.equal(remembered[1].text, first.text)


@pytest.mark.parametrize(
    ("job", "words"),
    [
        (with_images(IN_PROMPT, 0), "prompt: The prompt has 0 <image>, but 1 images are given"),
        (with_images(IN_PROMPT, 0, prompt="<image>", **{"seeing.use.selection": "4;"}), "'4;' is no selection"),
        (with_images(I2V_V2, 0, prompt="a <image>"), "holds <image>, but for image-to-video"),
        (with_images(I2V_V2, 0, **{"encoders.vision": "none"}), "no vision tower, but there are images to read"),
        (with_images(I2V_V2, 0, **{"encoders.vision": jobs.CLIP}), "is a CLIP text encoder, but LLaVA's vision tower"),
    ],
)
def test_images_that_cannot_be_read_say_what_to_do(studio, eyes, job, words):
    assert words in studio.failure(job)


# --- mixing and changing --------------------------------------------------------------------------------------


def other_prompt(prompt: str = DOG) -> jobs.Json:
    node = jobs.text_to_latent({"prompt.prompt": prompt})["prompt"]
    return node


def test_a_blend_lies_between_its_prompts_which_are_its_ends(encoded):
    cat, dog = encoded(), encoded(changes={"prompt.prompt": DOG})

    def mixed(share: float) -> Conditioning:
        node = jobs.node("HyvBlendPrompts", prompt_1=["prompt", 0], prompt_2=["dog", 0], share_2=share)
        return encoded(("mix", 0), mix=node, dog=other_prompt())

    assert same(mixed(0.0), cat)
    assert same(mixed(1.0), dog)
    torch.testing.assert_close(mixed(0.25).pooled, 0.75 * cat.pooled + 0.25 * dog.pooled)


def scheduled(*turns: tuple[str, float, float], changes: Changes | None = None) -> jobs.Json:
    """A job in whose run prompts take over: text, start and fade of each, in the order of the nodes."""
    job, model = jobs.text_to_latent({"prompt.prompt": CAT, "sampler.steps": 4}), ["model", 0]
    for number, (prompt, start, fade) in enumerate(turns):
        job[f"prompt{number}"] = other_prompt(prompt)
        job[f"turn{number}"] = jobs.node(
            "HyvPromptSchedule", model=model, prompt=[f"prompt{number}", 0], start=start, fade=fade
        )
        model = [f"turn{number}", 0]
    return jobs.changed(job, {"sampler.model": model, **(changes or {})})


def test_prompts_take_over_in_any_order_of_nodes_and_every_setting_counts(studio):
    plain = studio.latent({"prompt.prompt": CAT, "sampler.steps": 4})
    assert torch.equal(studio.saved_latent(scheduled((CAT, 0.5, 0.0))), plain)
    assert torch.equal(
        studio.saved_latent(scheduled((DOG, 0.0, 0.0), changes={"prompt.prompt": DOG})),
        studio.latent({"prompt.prompt": DOG, "sampler.steps": 4}),
    )
    red, dog = ("Red.", 0.25, 0.25), (DOG, 0.5, 0.5)
    both = studio.saved_latent(scheduled(red, dog))
    assert torch.equal(studio.saved_latent(scheduled(dog, red)), both)
    others = [
        scheduled(dog),
        scheduled((DOG, 0.5, 0.0)),
        scheduled((DOG, 0.75, 0.0)),
        scheduled(red, ("Red.", 0.5, 0.5)),
    ]
    found = [plain, both, *map(studio.saved_latent, others)]
    assert not any(torch.equal(one, other) for at, one in enumerate(found) for other in found[:at])


def test_a_negative_schedule_acts_on_the_negative_prompt(studio):
    cfg = {"sampler.cfg": 3.0, "sampler.negative": ["prompt", 1]}
    against = scheduled((DOG, 0.5, 0.0), changes={"turn0.replaces": "negative"})
    assert torch.equal(studio.saved_latent(against), studio.latent({"prompt.prompt": CAT, "sampler.steps": 4}))
    plain = studio.latent({"prompt.prompt": CAT, "sampler.steps": 4, **cfg})
    assert not torch.equal(studio.saved_latent(jobs.changed(against, cfg)), plain)


def test_two_prompts_at_one_time_are_refused(studio):
    assert "prompts begin at [0.5, 0.5]" in studio.failure(scheduled((DOG, 0.5, 0.0), ("Red.", 0.5, 0.0)))


# --- files ----------------------------------------------------------------------------------------------------


def test_a_saved_prompt_is_the_prompt_without_text_encoders(studio, saved):
    job = jobs.text_to_latent({"prompt.prompt": CAT})
    expected = studio.saved_latent(job)
    file = studio.files(studio.run(to_file(changes={"save.note": CAT, "save.filename_prefix": "cats/mine"})))[0]
    assert file.parent == studio.server.output / "prompts" / "cats"
    studio.release()
    before = studio.reads()["text encoders"]
    rest = {name: content for name, content in job.items() if name not in ("encoders", "prompt")}
    rest["prompt"] = jobs.node("HyvLoadPrompt", file=f"prompts/cats/{file.name} [output]")
    assert torch.equal(studio.saved_latent(rest), expected)
    assert studio.reads()["text encoders"] == before
    again = jobs.node("HyvSavePrompt", prompt=["prompt", 0], filename_prefix="again", note=["prompt", 1])
    assert saved({"prompt": rest["prompt"], "save": again})[1] == Provenance(prompt=CAT)


def test_another_file_is_refused_with_the_reason(studio, server):
    path = server.base / "input" / "lora.safetensors"
    save_file({"x": torch.zeros(1)}, path)
    job = {"prompt": jobs.node("HyvLoadPrompt", file=path.name)}
    job["save"] = jobs.node("HyvSavePrompt", prompt=["prompt", 0], filename_prefix="x")
    try:
        assert "lora.safetensors is no encoded prompt of HyVideo Studio" in studio.failure(job)
    finally:
        path.unlink()


# --- rewriting ------------------------------------------------------------------------------------------------


@pytest.fixture
def writer(server) -> Path:
    """A folder with a language model that writes nonsense."""
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    rows, folder = 600, server.base / "models" / "LLM" / "writer"
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=rows, **sizes))
    model.generation_config = GenerationConfig(eos_token_id=0)
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_text(llama_tokenizer((CAT, DOG), rows))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    yield folder
    shutil.rmtree(folder)


def rewritten(studio, **inputs: Any) -> str:
    node = jobs.node("HyvRewritePrompt", **{"prompt": CAT, "mode": "normal", "llm": "none", **inputs})
    (text,) = studio.run({"rewrite": node})["rewrite"]["text"]
    return text


def test_without_a_model_the_whole_request_is_handed_out(studio, encoded):
    for mode in ("normal", "master"):
        assert rewritten(studio, mode=mode) == rewrite_prompt(CAT, mode)
    node = jobs.node("HyvRewritePrompt", prompt=CAT, mode="normal", llm="none")
    assert same(encoded(changes={"prompt.prompt": ["rewrite", 0]}, rewrite=node), encoded())


def test_a_model_rewrites_as_the_core_does_and_every_setting_counts(studio, writer):
    settings = {"llm": "writer", "max_new_tokens": 8}
    found = rewritten(studio, **settings)
    assert found == rewrite(CAT, "normal", writer, max_new_tokens=8)
    assert rewritten(studio, **settings, wording=1) == rewrite(CAT, "normal", writer, max_new_tokens=8, seed=1) != found
    assert rewritten(studio, **{**settings, "max_new_tokens": 20}) != found
