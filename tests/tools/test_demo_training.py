"""The trainings of the demo model: what they differentiate is what the pack computes, and a stop changes nothing."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor, nn

from hyvideo_core.model.dit import DiT
from hyvideo_core.text import IMAGE, VIDEO, TextEncoders
from hyvideo_core.vae import VAE
from hyvideo_core.weights import load_dit
from hyvideo_core.weights.lora import lora_shapes
from hyvideo_core.weights.lora_file import read_lora
from tools.demo_model import (
    captions,
    distill,
    dit_forward,
    export,
    features,
    files,
    train_dit,
    train_lora,
    train_text,
    train_vae,
    vae_forward,
)
from tools.demo_model.training import Draw, Recipe, Training
from tools.demo_model.world import random_scene


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def vae() -> VAE:
    return train_vae.initialised(VAE(train_vae.CONFIG))


@pytest.mark.parametrize("frames", [1, 5])
def test_the_vaes_differentiable_forward_is_the_vaes(frames: int) -> None:
    module, video = VAE(train_vae.CONFIG), torch.randn(2, 3, frames, 16, 24)
    with torch.no_grad():
        moments = vae_forward.encode(module, video).moments
        torch.testing.assert_close(moments, module.encode(video).moments, rtol=1e-4, atol=1e-5)
        latent = torch.randn(2, 16, (frames - 1) // 4 + 1, 2, 3)
        torch.testing.assert_close(vae_forward.decode(module, latent), module.decode(latent), rtol=1e-4, atol=1e-4)


def test_every_parameter_of_the_vae_is_trained() -> None:
    module = VAE(train_vae.CONFIG)
    losses = train_vae.losses(module, torch.rand(1, 3, 9, 16, 16), torch.Generator().manual_seed(0), 1e-4)
    torch.stack(list(losses.values())).sum().backward()
    assert not [name for name, p in module.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]


@pytest.mark.parametrize("token_replace", [False, True])
@pytest.mark.parametrize("guided", [False, True])
def test_the_transformers_differentiable_forward_is_the_transformers(token_replace: bool, guided: bool) -> None:
    dit = DiT(distill.STUDENT_CONFIG if guided else train_dit.CONFIG)
    x, text, pooled = torch.randn(3, 16, 3, 4, 6), torch.randn(3, 9, 128), torch.randn(3, 64)
    mask = torch.arange(9) < torch.tensor([[9], [1], [5]])
    timestep, scale = torch.rand(3) * 1000, torch.rand(3) * 6000 if guided else None
    with torch.no_grad():
        ours = dit_forward.forward(dit, x, timestep, text, mask.long(), pooled, scale, token_replace=token_replace)
        packs = dit(x, timestep, text, mask.long(), pooled, scale, token_replace=token_replace)
    torch.testing.assert_close(ours, packs, rtol=1e-4, atol=1e-5)


def test_an_initialised_transformer_predicts_nothing_yet() -> None:
    dit = train_dit.initialised(DiT(train_dit.CONFIG))
    inputs = torch.rand(1), torch.randn(1, 4, 128), torch.ones(1, 4), torch.randn(1, 64)
    with torch.no_grad():
        assert not dit(torch.randn(1, 16, 2, 4, 4), *inputs).any()


def test_the_usual_guidance_stands_for_the_best_cfg_and_1_for_none() -> None:
    given = torch.tensor([1.0, distill.USUAL_GUIDANCE])
    assert distill.cfg_of(given).tolist() == [1.0, distill.BEST_CFG]


def test_the_tokenizers_that_are_shipped_stay_with_their_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_text, "TRAINING", tmp_path)
    monkeypatch.setattr(train_text, "made_tokenizers", lambda: ("first", "second"))
    assert train_text.tokenizers() == ("first", "second")
    monkeypatch.setattr(train_text, "made_tokenizers", lambda: ("another", "one"))
    assert train_text.tokenizers() == ("first", "second")


def test_a_checkpoint_made_from_something_else_is_refused(tmp_path: Path) -> None:
    recipe = Recipe(steps=1, rate=0.1)
    module = nn.Linear(2, 2)
    Training("a", module, recipe, tmp_path, made_from="this").save()
    Training("a", module, recipe, tmp_path, made_from="this")
    Training("a", module, recipe, tmp_path)
    with pytest.raises(SystemExit, match=r"made from other data or networks \(this\)"):
        Training("a", module, recipe, tmp_path, made_from="that")


def latent_batch(first_frame: bool) -> train_dit.Batch:
    text, mask, pooled = torch.randn(3, 5, 128), torch.ones(3, 5).long(), torch.randn(3, 64)
    return train_dit.Batch(torch.randn(3, 16, 3, 4, 6), text, mask, pooled, first_frame)


@pytest.mark.parametrize("first_frame", [False, True])
def test_noise_is_on_the_straight_way_to_the_clip_but_for_a_given_frame(first_frame: bool) -> None:
    batch = latent_batch(first_frame)
    sigma, x, velocity = train_dit.noisy(batch, Draw.of("test", 0))
    back = x - sigma.view(-1, 1, 1, 1, 1) * velocity
    start = int(first_frame)
    torch.testing.assert_close(back[:, :, start:], batch.clean[:, :, start:])
    assert torch.equal(x[:, :, 0], batch.clean[:, :, 0]) == first_frame


def test_a_student_that_says_what_guidance_says_has_no_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """The teacher says 1 with the prompt and 0 without; the student is asked what it says for each guidance."""
    said: list[Tensor] = []
    batch, nothing = latent_batch(False), (torch.zeros(1, 2, 128), torch.ones(1, 2).long(), torch.zeros(1, 64))

    def forward(who: str, x: Tensor, _t: Tensor, text: Tensor, _m: Tensor, _p: Tensor, guidance=None, **_: object):
        if who == "student":
            said.append(guidance / 1000)
            return distill.cfg_of(guidance / 1000).view(-1, 1, 1, 1, 1).expand_as(x)
        return torch.full_like(x, 1.0 if text.shape[1] == 5 else 0.0)

    monkeypatch.setattr(distill, "forward", forward)
    assert distill.loss("student", "teacher", batch, nothing, Draw.of("test", 1)) < 1e-9
    (guidance,) = said
    assert (guidance >= distill.GUIDANCES[0]).all()
    assert (guidance <= distill.GUIDANCES[1]).all()


def test_the_shipped_lora_has_a_term_for_each_layer_it_was_trained_for() -> None:
    dit = load_dit(files.T2V, dtype=torch.float32)
    trained = set(train_lora.Terms(dit).layers)
    assert set(read_lora(files.LORA, lora_shapes(dit)).terms) == trained


def test_a_student_begins_as_its_teacher_at_every_scale() -> None:
    teacher = DiT(train_dit.CONFIG)
    student = distill.begun(teacher)
    inputs = torch.randn(1, 16, 2, 4, 4), torch.rand(1), torch.randn(1, 4, 128), torch.ones(1, 4), torch.randn(1, 64)
    with torch.no_grad():
        for scale in (1000.0, 6000.0):
            assert torch.equal(student(*inputs, torch.tensor([scale])), teacher(*inputs))


@pytest.mark.parametrize("template", [VIDEO, IMAGE])
def test_features_are_those_of_the_packs_encoders(template: object) -> None:
    found = features.TextFeatures()
    prompts = ["a red circle moving left on a white background", "", "A blue square grows. The background is black."]
    text, mask, pooled = found(prompts, image=template is IMAGE, tokens=(4, 20))
    expected = TextEncoders(found.mllm, found.clip).encode(prompts, IMAGE if template is IMAGE else VIDEO)
    length = expected.text.shape[1]
    assert text.shape[1] == 20
    assert expected.text_mask is not None
    assert torch.equal(mask[:, :length], expected.text_mask)
    assert not mask[:, length:].any()
    # In bfloat16 here, in float32 there.
    assert (text[:, :length] - expected.text).norm() < 0.02 * expected.text.norm()
    assert (pooled - expected.pooled).norm() < 0.02 * expected.pooled.norm()


def test_normalising_moves_the_latent_and_not_the_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "CLIPS_MEASURED", 6)
    module = vae()
    video = torch.rand(1, 3, 5, 32, 32) * 2 - 1
    with torch.no_grad():
        before = module.decode(module.encode(video).mean)
        export.normalise(module)
        after = module.decode(module.encode(video).mean)
    torch.testing.assert_close(after, before, rtol=1e-2, atol=1e-3)
    latent = export.encoded(module, export.measured_scenes(), 17).transpose(0, 1).flatten(1)
    assert latent.mean(1).abs().max() < 0.01
    assert abs(float(latent.std()) - 1) < 0.01


class Line(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 1)

    def losses(self, draw: Draw, _step: int) -> dict[str, Tensor]:
        x = torch.randn(8, 3, generator=draw.torch)
        return {"mse": (self.layer(x) - draw.rng.random() - x.sum(1, keepdim=True)).square().mean()}


def weights(folder: Path, *stops: int) -> Tensor:
    """The weight after 20 steps, trained in as many runs as there are stops and one more."""
    for stop in (*stops, 20):
        torch.manual_seed(1)
        line = Line()
        training = Training("line", line, Recipe(steps=20, rate=0.1, warmup=3, save_every=4, log_every=2), folder)

        def losses(draw: Draw, step: int, line: Line = line, stop: int = stop) -> dict[str, Tensor]:
            if step >= stop:
                raise KeyboardInterrupt
            return line.losses(draw, step)

        try:
            training.run(losses)
        except KeyboardInterrupt:
            assert stop < 20
    return line.layer.weight.detach().clone()


def test_a_stopped_training_ends_where_one_that_was_not_ends(tmp_path: Path) -> None:
    whole = weights(tmp_path / "whole")
    assert torch.equal(weights(tmp_path / "stopped", 1, 7, 13), whole)
    curves = [(tmp_path / name / "line.jsonl").read_text().splitlines() for name in ("whole", "stopped")]
    assert curves[0] == curves[1]
    assert len(curves[0]) == 10


def test_a_training_that_diverges_says_where(tmp_path: Path) -> None:
    line = Line()
    with pytest.raises(FloatingPointError, match=r"line.*step 0"):
        Training("line", line, Recipe(steps=2, rate=0.1), tmp_path).run(
            lambda draw, step: {"mse": line.losses(draw, step)["mse"] * float("nan")}
        )


@pytest.mark.parametrize("held_out", [False, True])
@pytest.mark.parametrize("image", [False, True])
def test_a_caption_says_what_it_says_it_says(image: bool, held_out: bool) -> None:
    rng = random.Random(f"{image} {held_out}")
    for _ in range(300):
        scene = random_scene(rng, 64, 64)
        caption = captions.describe(rng, scene, image=image, partial=rng.random() < 0.5, held_out=held_out)
        text = caption.text.lower()
        for thing in caption.things:
            truth = [t for t in scene.things if thing.color in ("", t.color) and thing.shape in ("", t.shape)]
            assert truth
            assert not thing.color or any(word in text for word in captions.COLOR_WORDS[thing.color])
            assert not thing.shape or any(word in text for word in captions.SHAPE_WORDS[thing.shape])
            assert not (image and thing.motion)
        assert caption.background in ("", scene.background)
        said = {word for thing in caption.things for word in captions.COLOR_WORDS.get(thing.color, ())}
        said |= set(captions.COLOR_WORDS.get(caption.background, ()))
        every = {word for words in captions.COLOR_WORDS.values() for word in words}
        assert not {word for word in every - said if f" {word} " in f" {text} "}


@pytest.mark.parametrize("image", [False, True])
def test_the_longest_captions_fit_what_blocks_are_compiled_for(image: bool) -> None:
    """A caption that did not would end a training of hours."""
    encode = features.TextFeatures().mllm
    template = IMAGE if image else VIDEO
    rng = random.Random(4)
    scenes = [random_scene(rng, 96, 48, things=2) for _ in range(200)]
    texts = {captions.describe(rng, scene, image=image).text for scene in scenes for _ in range(100)}
    longest = sorted(texts, key=len)[-200:]
    most = max(len(encode.tokenize(text, template)[0]) - template.crop_start for text in longest)
    assert most <= train_dit.TEXT_TOKENS[image][-1] - 8, "longer ones are rarer, but there are some"


@pytest.mark.parametrize("share", [None, 0.0, 0.65])
def test_a_batch_shows_two_things_as_often_as_its_stage_says(share: float | None) -> None:
    scenes = [random_scene(random.Random(seed), 64, 64) for seed in range(300)]
    chosen = train_dit.chosen_clips(random.Random(5), scenes, share)
    assert len(set(chosen)) == train_dit.BATCH, "no clip comes twice"
    part = sum(len(scenes[place].things) == 2 for place in chosen) / train_dit.BATCH
    in_world = sum(len(scene.things) == 2 for scene in scenes) / len(scenes)
    assert part == pytest.approx(in_world if share is None else share, abs=0.15 if share is None else 0.01)


def test_captions_label_what_is_said() -> None:
    rng = random.Random(3)
    scene = random_scene(rng, 64, 64, things=2)
    caption = captions.describe(rng, scene)
    labels = train_text.labels_of(caption)
    assert train_text.BACKGROUNDS[labels[-2]] == scene.background
    assert labels[-1] == 1
    assert train_text.ASPECTS["color"][labels[0]] == caption.things[0].color
    one = replace(caption, things=caption.things[:1])
    assert train_text.labels_of(one)[4:8] == [0, 0, 0, 0]
    assert train_text.labels_of(one)[-1] == 0


def test_a_stage_begins_where_the_one_before_ended_and_what_is_done_is_not_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, read, seen = Recipe(steps=3, rate=0.1, warmup=1, average=0.5), [], []
    stages = {name: train_dit.Stage(recipe, (each,)) for name, each in zip("ab", train_dit.GEOMETRIES, strict=False)}

    def loss(module: nn.Linear, _batch: object, _draw: Draw) -> Tensor:
        seen.append(module.bias.detach().clone())
        return (module.bias - 9.0).square().mean()

    monkeypatch.setattr(train_dit, "STAGES", stages)
    monkeypatch.setattr(train_dit, "DiT", lambda _config: nn.Linear(2, 2))
    monkeypatch.setattr(train_dit, "initialised", lambda module: module)
    monkeypatch.setattr(train_dit, "Training", partial(Training, folder=tmp_path))
    monkeypatch.setattr(train_dit, "Data", lambda stage: (read.append(stage.geometries), Mock())[1])
    monkeypatch.setattr(train_dit, "loss", loss)
    train_dit.main()
    assert read == [stage.geometries for stage in stages.values()]
    first, second = (torch.load(tmp_path / f"{name}.pt")["averaged"]["bias"] for name in "ab")
    assert torch.equal(seen[recipe.steps], first)
    assert (second > first).all()
    train_dit.main()
    assert (len(read), len(seen)) == (2, 2 * recipe.steps)
    assert torch.equal(torch.load(tmp_path / "b.pt")["averaged"]["bias"], second)
