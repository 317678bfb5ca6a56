"""Model files are recognised by the names and shapes inside them, whatever is broken."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from model_file_data import REFINER, WIDE_TRANSFORMER, header_file, llama_shapes

from tools import model_files


def vision_shapes(prefix: str) -> dict[str, tuple[int, ...]]:
    """Of LLaVA's vision tower with its projector, as far as it is told by them."""
    patches = prefix + "vision_model.embeddings.patch_embedding.weight"
    return {patches: (1024, 3, 14, 14), "multi_modal_projector.linear_1.weight": (4096, 1024)}


@pytest.mark.parametrize("channels", [32, 33])
def test_a_transformer_that_takes_an_image_is_found_and_says_so(tmp_path: Path, channels: int) -> None:
    shapes = {REFINER: (3072,), "img_in.proj.weight": (3072, channels, 1, 2, 2)}
    found = model_files.recognise(header_file(tmp_path / "x.safetensors", shapes))
    assert found is not None
    assert found.usable
    assert "give it an image by HyVideo Image to Video" in found.note


@pytest.mark.parametrize("prefix", ["", "model.", "model.model.", "model.diffusion_model.", "diffusion_model."])
def test_a_transformer_is_known_under_every_prefix(tmp_path: Path, prefix: str) -> None:
    shapes = {prefix + REFINER: (3072,), prefix + "img_in.proj.weight": (3072, 16, 1, 2, 2)}
    found = model_files.recognise(header_file(tmp_path / "x.safetensors", shapes))
    assert found == model_files.Found(tmp_path / "x.safetensors", model_files.TRANSFORMER, "text-to-video, width 3072")


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ({REFINER: (3072,), "img_in.proj.weight": (3072, 20, 1, 2, 2)}, "another task, with 20 input channels"),
        ({**WIDE_TRANSFORMER, "double_blocks.0.img_attn_qkv.lora_A.weight": (16, 3072)}, "LoRA"),
        (llama_shapes(128256, "model."), "128,256 tokens"),
    ],
)
def test_a_file_the_loaders_refuse_does_not_count_as_found(
    tmp_path: Path, shapes: dict[str, tuple[int, ...]], words: str
) -> None:
    found = model_files.recognise(header_file(tmp_path / "x.safetensors", shapes))
    assert found is not None
    assert not found.usable
    assert words in found.note


@pytest.mark.parametrize(
    ("kind", "shapes"),
    [
        (model_files.VAE, {"decoder.conv_in.conv.weight": (512, 16, 3, 3, 3)}),
        (model_files.VAE, {"vae.decoder.conv_in.conv.weight": (512, 16, 3, 3, 3)}),
        (model_files.LLAMA, llama_shapes(128320, "model.")),
        (model_files.LLAMA, llama_shapes(128320, "language_model.model.")),
        (model_files.LLAMA, llama_shapes(128259, "")),
        ("", llama_shapes(32000, "model.")),
        (model_files.CLIP, {"text_model.embeddings.token_embedding.weight": (49408, 768)}),
        (model_files.VISION, vision_shapes("")),
        (model_files.VISION, vision_shapes("vision_tower.")),
        ("", {"vision_model.embeddings.patch_embedding.weight": (1024, 3, 14, 14)}),
        ("", {"decoder.conv_in.conv.weight": (512, 4, 3, 3, 3)}),
        ("", {"text_model.embeddings.token_embedding.weight": (49408, 1280)}),
        ("", {"double_blocks.0.img_attn.qkv.weight": (1, 1)}),
    ],
)
def test_the_parts_are_told_from_other_models(kind: str, shapes: dict[str, tuple[int, ...]]) -> None:
    assert model_files.classify(shapes)[0] == kind


def test_one_diffusers_file_is_a_transformer() -> None:
    names = {"context_embedder.token_refiner.refiner_blocks.0.norm1.weight": (3072,)}
    assert model_files.classify({**names, "x_embedder.proj.weight": (3072, 16, 1, 2, 2)})[::2] == ("transformer", True)


@pytest.mark.parametrize(
    "content", [b"", b"\x01", b"\xff" * 64, struct.pack("<Q", 2) + b"[", b"\x02" + bytes(7) + b"{]"]
)
def test_a_damaged_file_is_named_and_never_raises(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.safetensors").write_bytes(content)
    found = model_files.recognise(tmp_path / "x.safetensors")
    assert found is not None
    assert found.note.startswith("damaged")


def test_a_partial_download_is_called_damaged(tmp_path: Path) -> None:
    found = model_files.recognise(header_file(tmp_path / "x.safetensors", WIDE_TRANSFORMER, missing_bytes=1))
    assert found is not None
    assert found.kind == ""
    assert "damaged" in found.note


def test_each_file_is_listed_once(tmp_path: Path) -> None:
    header_file(tmp_path / "unet" / "x.safetensors", WIDE_TRANSFORMER)
    assert len(model_files.scan([tmp_path / "unet", tmp_path])) == 1


def test_loras_are_counted_once_each(tmp_path: Path) -> None:
    for name in ("a.safetensors", "b/c.pt", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert model_files.count_loras([tmp_path, tmp_path / "b"]) == 2
