"""What holds for the VAE whatever its weights: causality, batches, windows, precision, interruption."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from golden_data import GOLDEN, assert_close, rel_l2
from hyvideo_core.errors import GeometryError
from hyvideo_core.vae import VAE, Posterior, Tiling, streaming
from hyvideo_core.vae.blocks import CausalAttention
from hyvideo_core.weights.vae import load_vae

SMALL_TILES = Tiling(tile_size_px=32, tile_frames=16, overlap=0.25)


@pytest.fixture(scope="module")
def vae() -> VAE:
    return load_vae(GOLDEN / "vae_weights.safetensors")


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_one_frame_survives_the_round_trip_of_shapes(vae: VAE) -> None:
    latent = vae.encode(noise(1, 3, 1, 24, 16)).mode()
    assert latent.shape == (1, 16, 1, 3, 2)
    assert vae.decode(latent).shape == (1, 3, 1, 24, 16)


def test_a_batch_gives_what_its_members_give_alone(vae: VAE) -> None:
    latents = noise(2, 16, 3, 3, 2)
    alone = torch.cat([vae.decode(latent[None]) for latent in latents])
    assert_close(vae.decode(latents), alone, rel=1e-5, max_abs=5e-5)


@pytest.mark.parametrize("shape", [(1, 16, 1, 4, 4), (1, 16, 5, 4, 4), (1, 16, 3, 2, 4)])
def test_a_tile_as_large_as_the_input_is_bit_identical_to_the_whole(vae: VAE, shape: tuple[int, ...]) -> None:
    latent = noise(*shape)
    large = replace(SMALL_TILES, tile_frames=20)
    assert torch.equal(vae.decode(latent, large), vae.decode(latent))


def test_a_tiled_decode_of_a_constant_latent_is_the_whole_and_constant(vae: VAE) -> None:
    """Replicate padding and whole-clip statistics keep constants constant, so tiles differ by rounding alone."""
    latent = noise(1, 16, 1, 1, 1).expand(1, 16, 9, 7, 9)
    whole, tiled = vae.decode(latent), vae.decode(latent, SMALL_TILES)
    assert_close(tiled, whole, rel=1e-5, max_abs=1e-5)
    assert_close(tiled, tiled[:, :, :1, :1, :1].expand_as(tiled), rel=1e-5, max_abs=1e-5)


@pytest.mark.parametrize(
    "tiling", [None, SMALL_TILES, replace(SMALL_TILES, overlap=0.0), replace(SMALL_TILES, spatial=False)]
)
def test_the_parts_of_a_decode_are_its_frames_in_order_bit_by_bit(vae: VAE, tiling: Tiling | None) -> None:
    latent = noise(1, 16, 9, 5, 6)
    copies = [part.clone() for part in vae.decode_frames(latent, tiling)]
    assert torch.equal(torch.cat(copies, dim=2), vae.decode(latent, tiling))
    assert (len(copies) == 1) == (tiling is None)


def test_a_part_is_final_before_the_next_is_computed(vae: VAE) -> None:
    done: list[int] = []
    parts = vae.decode_frames(noise(1, 16, 9, 3, 3), SMALL_TILES, lambda finished, total: done.append(total - finished))
    first = next(parts)
    assert done[-1] > 0
    kept = first.clone()
    list(parts)
    assert torch.equal(first, kept)
    assert done[-1] == 0


def test_a_decode_in_parts_refuses_another_shape_at_once(vae: VAE) -> None:
    with pytest.raises(GeometryError, match="latent has the shape"):
        vae.decode_frames(torch.zeros(1, 4, 2, 4, 4))


def test_inputs_are_never_changed(vae: VAE) -> None:
    video, latent = noise(1, 3, 5, 16, 16), noise(1, 16, 2, 2, 2)
    before = video.clone(), latent.clone()
    vae.encode(video)
    vae.decode(latent)
    vae.decode(latent, Tiling(8, 4, 0.0))
    assert torch.equal(video, before[0])
    assert torch.equal(latent, before[1])


class ShapesMade(TorchDispatchMode):
    """Notes the shape of every tensor of a dtype that any operation gives."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.shapes: set[tuple[int, ...]] = set()

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        found = out if isinstance(out, tuple | list) else [out]
        self.shapes |= {tuple(x.shape) for x in found if isinstance(x, torch.Tensor) and x.dtype == self.dtype}
        return out


@pytest.mark.parametrize(("what", "shape"), [("encode", (1, 3, 65, 16, 32)), ("decode", (1, 16, 17, 2, 4))])
def test_tiles_are_moved_one_by_one_and_the_whole_input_never(what: str, shape: tuple[int, ...]) -> None:
    half = load_vae(GOLDEN / "vae_weights.safetensors", dtype=torch.bfloat16)
    for tiling, moved_whole in ((None, True), (Tiling(16, 32, 0.25), False), (Tiling(64, 32, 0.25), False)):
        with ShapesMade(torch.bfloat16) as made:
            getattr(half, what)(noise(*shape), tiling)
        assert (shape in made.shapes) == moved_whole


@pytest.mark.parametrize("tiling", [None, SMALL_TILES])
def test_a_tile_of_an_input_is_the_one_of_the_converted_input_bit_by_bit(tiling: Tiling | None) -> None:
    half = load_vae(GOLDEN / "vae_weights.safetensors", dtype=torch.bfloat16)
    latent, video = noise(1, 16, 6, 3, 5), noise(21, 40, 24, 3).permute(3, 0, 1, 2)[None]
    assert torch.equal(half.decode(latent, tiling), half.decode(latent.bfloat16(), tiling))
    assert torch.equal(half.encode(video, tiling).moments, half.encode(video.bfloat16(), tiling).moments)


def test_windows_of_any_size_give_the_same_video(vae: VAE, monkeypatch: pytest.MonkeyPatch) -> None:
    latent, video = noise(1, 16, 5, 3, 2), noise(1, 3, 18, 24, 16)
    decoded, encoded = vae.decode(latent), vae.encode(video).moments
    monkeypatch.setattr(streaming, "WINDOW_BYTES", 1)
    assert_close(vae.decode(latent), decoded, rel=1e-5, max_abs=5e-5)
    assert_close(vae.encode(video).moments, encoded, rel=1e-5, max_abs=5e-5)


@torch.no_grad()
@pytest.mark.parametrize("window_bytes", [1, 2**26])
def test_windowed_group_norm_is_exact(window_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "WINDOW_BYTES", window_bytes)
    norm = nn.GroupNorm(4, 8, eps=1e-6)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = noise(2, 8, 7, 3, 5) * noise(1, 8, 7, 1, 1, seed=1) + 3
    assert_close(streaming.Affine(list(x.split(3, dim=2)), norm)(x), norm(x), rel=5e-6, max_abs=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("time_factor", [1, 2])
@pytest.mark.parametrize("frames", [1, 2, 5])
def test_folded_upsampling_equals_upsampling_then_convolving(time_factor: int, frames: int) -> None:
    conv = nn.Conv3d(4, 3, 3)
    x = noise(2, 4, frames, 3, 5)
    first = x[:, :, :1].repeat_interleave(2, 3).repeat_interleave(2, 4)
    rest = x[:, :, 1:].repeat_interleave(time_factor, 2).repeat_interleave(2, 3).repeat_interleave(2, 4)
    upsampled = torch.cat((first, rest), dim=2)
    expected = conv(F.pad(upsampled, (1, 1, 1, 1, 2, 0), mode="replicate"))
    found = torch.cat(streaming.upsampling_conv(conv, list(x.split(2, dim=2)), time_factor), dim=2)
    assert_close(found, expected, rel=5e-6, max_abs=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("max_scores", [1, 2**26])
def test_attention_by_frames_equals_dense_masked_attention(max_scores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hyvideo_core.vae.blocks.MAX_SCORES", max_scores)
    layer = CausalAttention(8, groups=2)
    x = noise(2, 8, 4, 2, 3)
    tokens = layer.group_norm(x).flatten(2).transpose(1, 2)
    frame = torch.arange(4).repeat_interleave(6)
    mask = frame[:, None] >= frame[None, :]
    mixed = F.scaled_dot_product_attention(layer.to_q(tokens), layer.to_k(tokens), layer.to_v(tokens), attn_mask=mask)
    expected = x + layer.to_out[0](mixed).transpose(1, 2).view_as(x)
    found = torch.cat(layer(list(x.clone().split(3, dim=2))), dim=2)
    assert_close(found, expected, rel=5e-6, max_abs=1e-5)


def test_bfloat16_is_finite_and_near_float32(vae: VAE) -> None:
    half = load_vae(GOLDEN / "vae_weights.safetensors", dtype=torch.bfloat16)
    latent, video = noise(1, 16, 3, 4, 4), noise(1, 3, 9, 32, 32).clamp(-1, 1)
    decoded, moments = half.decode(latent), half.encode(video).moments
    assert decoded.dtype == moments.dtype == torch.bfloat16
    assert rel_l2(decoded, vae.decode(latent)) < 2.5e-2
    assert rel_l2(moments, vae.encode(video).moments) < 2.5e-2


@pytest.mark.parametrize("tiling", [None, Tiling(16, 4, 0.5)])
def test_progress_counts_every_unit_once(vae: VAE, tiling: Tiling | None) -> None:
    for run, x in ((vae.decode, noise(1, 16, 3, 3, 3)), (vae.encode, noise(1, 3, 9, 24, 24))):
        seen: list[tuple[int, int]] = []
        run(x, tiling, lambda done, total, seen=seen: seen.append((done, total)))
        total = seen[0][1]
        assert total > 1
        assert seen == [(i, total) for i in range(1, total + 1)]


@pytest.mark.parametrize("tiling", [None, Tiling(16, 4, 0.5)])
def test_a_callback_that_raises_leaves_the_vae_as_it_was(vae: VAE, tiling: Tiling | None) -> None:
    latent = noise(1, 16, 3, 3, 3)
    before = vae.decode(latent, tiling)

    def interrupt(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        vae.decode(latent, tiling, interrupt)
    assert torch.equal(vae.decode(latent, tiling), before)


def test_the_posterior_limits_its_variance_and_repeats_for_a_seed() -> None:
    moments = torch.cat((noise(1, 2, 1, 2, 2), torch.full((1, 2, 1, 2, 2), -100.0)), dim=1)
    posterior = Posterior(moments)
    assert_close(posterior.sample(torch.Generator().manual_seed(1)), posterior.mode(), rel=1e-5, max_abs=1e-5)
    wide = Posterior(torch.zeros(1, 4, 1, 2, 2))
    first, again, other = (wide.sample(torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert Posterior(torch.full((1, 2, 1, 1, 1), 1e4)).logvar.item() == 20


@pytest.mark.parametrize("shape", [(16, 2, 4, 4), (1, 4, 2, 4, 4), (1, 16, 0, 4, 4)])
def test_a_latent_of_another_shape_is_refused(vae: VAE, shape: tuple[int, ...]) -> None:
    with pytest.raises(GeometryError, match=r"latent has the shape .*batch, 16, frames"):
        vae.decode(torch.zeros(shape))


def test_no_gradients_are_recorded(vae: VAE) -> None:
    assert not vae.decode(noise(1, 16, 1, 1, 1).requires_grad_()).requires_grad
