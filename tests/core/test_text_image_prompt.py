"""What image-to-video reads of a prompt and an image is the original's, and images in a prompt stand in their place."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from text_data import CLIP_CONFIG, FOX, clip_weights, llama_weights, saved

from golden_data import golden, of_case
from hyvideo_core.errors import CheckpointError, NumericsError, PromptError
from hyvideo_core.text import VIDEO, MLLMEncoder, TextEncoders, custom
from hyvideo_core.text.image_prompt import (
    IMAGE_TO_VIDEO,
    encode_image_to_video,
    encode_with_images,
    hidden_states,
    image_to_video_rows,
)
from hyvideo_core.text.selection import TokenSelection
from hyvideo_core.text.tokenizers import LLAMA_IMAGE, LLAMA_PAD
from hyvideo_core.text.vision import CLIP_MEAN, CLIP_STD, VisionEncoder, clip_pixels
from hyvideo_core.weights import describe_mllm, load_clip, load_mllm
from hyvideo_core.weights.vision import describe_vision, load_vision

TENSORS, META = golden("text_i2v")
CASES = META["cases"]
PROMPTS = {case: info["prompt"] for case, info in CASES.items()} | {"i2v/p3_interleave4": FOX.strip()}
FEATURES = TENSORS["i2v/image_features"][0]
OTHER = FEATURES.flip(0)
DIM = FEATURES.shape[1]
VISION_CONFIG = META["vision_config"]
TOLERANCE = 1e-5
CAT = "A cat walks on the grass, realistic style."


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory, llama_tokenizer: Path, clip_tokenizer: Path) -> TextEncoders:
    folder = tmp_path_factory.mktemp("text")
    weights = llama_weights()
    rows = of_case(TENSORS, "llm_w")
    weights["embed_tokens.weight"][rows["embed_rows.ids"].long()] = rows["embed_rows.weight"]
    llama = saved(folder / "llm.safetensors", weights, "model.", META["llama_config"])
    clip = saved(folder / "clip_l.safetensors", clip_weights(), "", CLIP_CONFIG)
    return TextEncoders(
        load_mllm(llama, tokenizer=llama_tokenizer, dtype=torch.float32),
        load_clip(clip, tokenizer=clip_tokenizer, dtype=torch.float32),
    )


@pytest.fixture(scope="module")
def mllm(encoders: TextEncoders) -> MLLMEncoder:
    return encoders.mllm


# --- image-to-video -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_ids_inside_the_template_are_the_originals(mllm: MLLMEncoder, case: str) -> None:
    expected = of_case(TENSORS, case)["input_ids"][0].tolist()
    ids, crop = mllm.tokenize(PROMPTS[case], IMAGE_TO_VIDEO, truncate=True)
    assert crop == 103
    assert ids + [LLAMA_PAD] * (IMAGE_TO_VIDEO.max_length - len(ids)) == expected
    assert ids.index(LLAMA_IMAGE) == 5


@pytest.mark.parametrize("case", CASES)
def test_rows_are_the_originals(mllm: MLLMEncoder, case: str) -> None:
    expected, interleave = of_case(TENSORS, case), int(case[-1])
    rows = image_to_video_rows(mllm, PROMPTS[case], FEATURES, interleave, truncate=True)
    valid = int(expected["mask_out"].sum())
    assert rows.shape == (valid, DIM)
    assert (rows - expected["hidden_state"][0, :valid]).abs().max() <= TOLERANCE


def test_a_prompt_becomes_the_rows_and_clips_vector(encoders: TextEncoders) -> None:
    found = encode_image_to_video(encoders, CAT, FEATURES)
    assert found.text_mask is None
    assert torch.equal(found.text[0], image_to_video_rows(encoders.mllm, CAT, FEATURES, 4))
    assert torch.equal(found.pooled, encoders.clip.encode([CAT]))


def test_the_image_reaches_every_row_and_its_own_by_interleave(encoders: TextEncoders) -> None:
    one, other = (encode_image_to_video(encoders, CAT, image).text[0] for image in (FEATURES, OTHER))
    assert ((one - other).abs().amax(dim=1) > TOLERANCE).all()
    every = encode_image_to_video(encoders, CAT, FEATURES, 1).text[0]
    assert torch.equal(one, torch.cat((every[:576:4], every[576:])))


def test_a_prompt_beyond_the_limit_is_refused_not_cut(encoders: TextEncoders) -> None:
    with pytest.raises(PromptError, match="template 'image-to-video' has room for"):
        encode_image_to_video(encoders, FOX, FEATURES)


def test_an_image_in_the_prompt_of_image_to_video_is_refused(encoders: TextEncoders) -> None:
    with pytest.raises(PromptError, match="holds <image>, but for image-to-video"):
        encode_image_to_video(encoders, "a <image> walks", FEATURES)


def test_an_interleave_below_1_is_refused(encoders: TextEncoders) -> None:
    with pytest.raises(PromptError, match=r"^interleave is 0, but must be 1 or more"):
        encode_image_to_video(encoders, CAT, FEATURES, 0)


# --- images inside a prompt ---------------------------------------------------------------------------------


def test_without_images_it_is_the_plain_prompt(encoders: TextEncoders) -> None:
    plain, found = encoders.encode([CAT], VIDEO), encode_with_images(encoders, CAT, [])
    assert (found.text - plain.text).abs().max() <= TOLERANCE
    assert torch.equal(found.pooled, plain.pooled)


def test_each_image_stands_in_its_place_with_the_rows_selected(encoders: TextEncoders) -> None:
    mllm, prompt = encoders.mllm, "a <image> chases a <image> home"
    ids, crop = mllm.tokenize(prompt, VIDEO)
    first, second = (place for place, token in enumerate(ids) if token == LLAMA_IMAGE)
    hidden = hidden_states(mllm, ids, [FEATURES, OTHER])
    assert len(hidden) == len(ids) + 2 * 575
    found = encode_with_images(encoders, prompt, [FEATURES, OTHER], selection=TokenSelection(":3, -1"))
    expected = torch.cat(
        (
            hidden[crop:first],
            hidden[[first, first + 1, first + 2, first + 575]],
            hidden[first + 576 : second + 575],
            hidden[[second + 575, second + 576, second + 577, second + 1150]],
            hidden[second + 1151 :],
        )
    )
    assert torch.equal(found.text[0], expected)


def test_what_is_read_in_an_images_place_are_its_embeddings(mllm: MLLMEncoder) -> None:
    """A naive computation: words of the vocabulary that happen to have the image's embeddings."""
    words = mllm.tokenizer.encode("one two three")
    table = mllm.llama.get_submodule("embed_tokens").weight
    ids = [*words, LLAMA_IMAGE, *words]
    as_image = hidden_states(mllm, ids, [table[torch.tensor(words)]])
    assert (as_image - hidden_states(mllm, [*words, *words, *words], [])).abs().max() <= TOLERANCE


def test_the_selection_and_the_order_of_images_matter(encoders: TextEncoders) -> None:
    prompt = "<image> beside <image>"
    found = encode_with_images(encoders, prompt, [FEATURES, OTHER]).text
    assert found.shape[1] == 2 * 144 + len(encoders.mllm.tokenize(prompt, VIDEO)[0]) - 95 - 2
    assert not torch.allclose(found, encode_with_images(encoders, prompt, [OTHER, FEATURES]).text)
    assert encode_with_images(encoders, prompt, [FEATURES, OTHER], selection=TokenSelection("::8")).text.shape[1] == (
        found.shape[1] - 144
    )


def test_clip_reads_the_prompt_without_images(encoders: TextEncoders) -> None:
    found = encode_with_images(encoders, "a <image> cat", [FEATURES])
    assert torch.equal(found.pooled, encoders.clip.encode(["a  cat"]))


def test_an_image_in_the_part_of_a_template_that_is_dropped_is_read_but_not_kept(encoders: TextEncoders) -> None:
    template = custom("look: <image> and tell {}<|eot_id|>")
    one, other = (encode_with_images(encoders, "a cat", [image], template).text for image in (FEATURES, OTHER))
    assert one.shape[1] == 3
    assert not torch.allclose(one, other)


@pytest.mark.parametrize(("prompt", "images"), [("a cat", 1), ("a <image>", 0), ("<image> <image>", 1)])
def test_another_number_of_images_than_places_is_refused(encoders: TextEncoders, prompt: str, images: int) -> None:
    words = f"has {prompt.count('<image>')} <image>, but {images} images are given"
    with pytest.raises(PromptError, match=words):
        encode_with_images(encoders, prompt, [FEATURES] * images)


def test_a_vision_tower_of_another_language_model_is_refused(encoders: TextEncoders) -> None:
    narrow = FEATURES[:, :5]
    with pytest.raises(CheckpointError, match=rf"embeddings of 5 numbers, but the language model reads {DIM}\. Choose"):
        encode_with_images(encoders, "a <image> <image>", [FEATURES, narrow])
    with pytest.raises(CheckpointError, match="of one LLaVA"):
        encode_image_to_video(encoders, CAT, narrow)


# --- the vision tower ---------------------------------------------------------------------------------------

WEIGHTS = of_case(TENSORS, "vision_w")
LAYOUTS = {
    "ComfyUI": lambda name: name,
    "LLaVA": lambda name: name.replace("vision_model.", "vision_tower.vision_model."),
    "newer LLaVA": lambda name: "model." + name.replace("vision_model.", "vision_tower.vision_model."),
}


def vision(path: Path) -> VisionEncoder:
    return load_vision(path, config=VISION_CONFIG, dtype=torch.float32)


@pytest.fixture(scope="module")
def eyes(tmp_path_factory: pytest.TempPathFactory) -> VisionEncoder:
    return vision(saved(tmp_path_factory.mktemp("vision") / "llava_llama3_vision.safetensors", WEIGHTS))


def test_hidden_states_and_embeddings_are_the_originals(eyes: VisionEncoder) -> None:
    hidden = eyes.tower(pixel_values=TENSORS["vision/pixel_values"]).last_hidden_state
    assert (hidden - TENSORS["vision/hidden_minus2"]).abs().max() <= TOLERANCE
    assert (eyes.projector(hidden[:, 1:]) - TENSORS["vision/projected"]).abs().max() <= TOLERANCE


def test_pixels_are_the_originals() -> None:
    image = TENSORS["preprocess/image_u8"][None] / 255
    found = clip_pixels(image, 336)
    assert found.shape == (1, 3, 336, 336)
    assert (found[:, :, ::7, ::7] - TENSORS["preprocess/pixel_values_every_7th"]).abs().max() <= TOLERANCE


def test_images_of_any_size_and_colours_are_encoded(eyes: VisionEncoder) -> None:
    images = torch.rand(2, 30, 90, 4, generator=torch.Generator().manual_seed(0))
    found = eyes.encode(images)
    assert found.shape == (2, (VISION_CONFIG["image_size"] // VISION_CONFIG["patch_size"]) ** 2, DIM)
    assert torch.equal(found, eyes.encode(images[..., :3]))
    assert not torch.allclose(found[0], found[1])
    grey = images[:1, ..., :1]
    assert torch.equal(eyes.encode(grey), eyes.encode(grey.expand(-1, -1, -1, 3)))
    pixels = clip_pixels(images[:1], eyes.size_px)
    expected = eyes.projector(eyes.tower(pixel_values=pixels).last_hidden_state[:, 1:])
    assert torch.equal(found[:1], expected)


def test_a_damaged_image_is_refused(eyes: VisionEncoder) -> None:
    with pytest.raises(NumericsError, match=r"NaN or infinity .*float32.*bfloat16 or float32"):
        eyes.encode(torch.full((1, 60, 60, 3), float("nan")))


@pytest.mark.parametrize(("height", "width"), [(64, 64), (720, 500), (100, 30)])
def test_pictures_are_scaled_as_pillow_does_it(height: int, width: int) -> None:
    picture = torch.randint(0, 256, (height, width, 3), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)
    rows, columns = (56 * side // min(height, width) for side in (height, width))
    scaled = Image.fromarray(picture.numpy()).resize((columns, rows), Image.Resampling.BICUBIC)
    top, left = (rows - 56) // 2, (columns - 56) // 2
    expected = torch.from_numpy(np.array(scaled))[top : top + 56, left : left + 56].movedim(-1, 0) / 255
    found = clip_pixels(picture[None] / 255, 56)[0]
    mean, std = (torch.tensor(values)[:, None, None] for values in (CLIP_MEAN, CLIP_STD))
    assert (found * std + mean - expected).abs().max() <= TOLERANCE


@pytest.mark.parametrize(("height", "width"), [(56, 56), (57, 999), (4, 2), (1, 1)])
def test_only_the_middle_square_is_seen(height: int, width: int) -> None:
    image = torch.zeros(1, height, width, 3)
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    image[:, top : top + side, left : left + side] = 1
    white = clip_pixels(torch.ones(1, 8, 8, 3), 56)
    found = clip_pixels(image, 56)
    assert found.shape == white.shape
    assert torch.equal(found[..., 14:42, 14:42], white[..., 14:42, 14:42])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same(layout: str, tmp_path: Path, eyes: VisionEncoder) -> None:
    weights = {LAYOUTS[layout](name): tensor for name, tensor in WEIGHTS.items()}
    extra = {"language_model.model.embed_tokens.weight": torch.zeros(2, 2)}
    found = vision(saved(tmp_path / "llava.safetensors", weights | extra))
    image = torch.rand(1, 40, 50, 3, generator=torch.Generator().manual_seed(1))
    assert torch.equal(found.encode(image), eyes.encode(image))
    tensors = {**dict(found.named_parameters()), **dict(found.named_buffers())}
    assert not [name for name, tensor in tensors.items() if tensor.is_meta or tensor.requires_grad]
    assert not [name for name in tensors if "layers.3." in name or "post_layernorm" in name]


def test_a_folder_says_itself_how_many_heads_there_are(tmp_path: Path, eyes: VisionEncoder) -> None:
    folder = tmp_path / "llava-llama-3-8b-v1_1-transformers"
    folder.mkdir()
    saved(folder / "model.safetensors", {LAYOUTS["LLaVA"](name): tensor for name, tensor in WEIGHTS.items()})
    config = {"vision_config": VISION_CONFIG, "text_config": {"num_attention_heads": 5}}
    (folder / "config.json").write_text(json.dumps(config))
    image = torch.rand(1, 40, 50, 3, generator=torch.Generator().manual_seed(1))
    assert torch.equal(load_vision(folder, dtype=torch.float32).encode(image), eyes.encode(image))
    assert describe_vision(folder) == "vision tower, 4 layers of 16, 16 places an image"


def test_the_layer_nobody_reads_may_be_missing_and_no_other(tmp_path: Path, eyes: VisionEncoder) -> None:
    for layer, fine in ((3, True), (2, False)):
        part = {name: tensor for name, tensor in WEIGHTS.items() if f"layers.{layer}." not in name}
        path = saved(tmp_path / f"without_{layer}.safetensors", part)
        if fine:
            vision(path)
        else:
            with pytest.raises(CheckpointError, match=r"without_2.safetensors lacks .*tower.*layers.2"):
                vision(path)


def test_the_official_tower_has_24_layers_whether_or_not_its_file_has_the_last(tmp_path: Path) -> None:
    header = {
        "vision_model.embeddings.patch_embedding.weight": torch.zeros(1024, 3, 14, 14),
        "vision_model.embeddings.position_embedding.weight": torch.zeros(577, 1024),
        "vision_model.encoder.layers.0.self_attn.q_proj.weight": torch.zeros(2, 2),
        "vision_model.encoder.layers.0.mlp.fc1.weight": torch.zeros(4, 2),
        "multi_modal_projector.linear_1.weight": torch.zeros(2, 2),
        "multi_modal_projector.linear_2.weight": torch.zeros(2, 2),
    }
    path = saved(tmp_path / "llava_llama3_vision.safetensors", header)
    assert describe_vision(path) == "vision tower, 24 layers of 1024, 576 places an image"


def test_other_models_are_told_apart(tmp_path: Path) -> None:
    without = {name: tensor for name, tensor in WEIGHTS.items() if "projector" not in name}
    path = saved(tmp_path / "clip_vision_h.safetensors", without)
    with pytest.raises(CheckpointError, match=r"clip_vision_h.* is a CLIP vision tower without the projector"):
        vision(path)
    llama = saved(tmp_path / "llama.safetensors", {"model.layers.0.self_attn.q_proj.weight": torch.zeros(2, 2)})
    with pytest.raises(CheckpointError, match=r"llama.safetensors is a language model, but LLaVA's vision tower"):
        vision(llama)
    with pytest.raises(CheckpointError, match=r"clip_vision_h.* is a CLIP vision tower, but the language model"):
        describe_mllm(path)
