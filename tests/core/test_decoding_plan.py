"""The predicted peaks of the VAE against traced allocations of real runs."""

from __future__ import annotations

import sys

import pytest
import torch
from measure import traced_peak_bytes

from hyvideo_core.configs import HUNYUAN_VIDEO_VAE, VAEConfig
from hyvideo_core.decoding_plan import (
    choose_tiling,
    decoding_with,
    plan_decoding,
    tilings,
    vae_activation_bytes,
    whole_or_tiled,
    with_smaller_tiles,
)
from hyvideo_core.errors import GeometryError
from hyvideo_core.vae import VAE, Tiling, streaming

pytestmark = pytest.mark.usefixtures("one_thread")

#: The VAE's proportions with an eighth of its widths: the weights shrink more than the activations.
NARROW_VAE = VAEConfig(block_out_channels=(16, 32, 64, 64), norm_groups=8)


@pytest.mark.parametrize(
    ("latent", "tiling"),
    [((9, 8, 8), None), ((6, 6, 10), None), ((13, 8, 14), Tiling(64, 16, 0.25)), ((17, 11, 6), Tiling(48, 32, 0.25))],
)
def test_the_vaes_peak_is_what_was_predicted(
    latent: tuple[int, int, int], tiling: Tiling | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Pieces as small beside these tiles as the usual ones are beside the usual tiles.
    monkeypatch.setattr(streaming, "WINDOW_BYTES", 2**18)
    # Of the CPU's kernels only those for bfloat16 need no working memory that grows with the channels.
    vae = VAE(NARROW_VAE).bfloat16().eval().requires_grad_(False)
    x = torch.randn(1, 16, *latent)

    def decode() -> None:
        for part in vae.decode_frames(x, tiling):
            del part

    tile = (None, None) if tiling is None else (tiling.tile_size_px, tiling.tile_frames)
    ratio = vae_activation_bytes(latent, *tile, 2, NARROW_VAE) / traced_peak_bytes(decode)
    assert 1.0 <= ratio <= 1.07


@pytest.mark.parametrize("what", ["decode", "encode"])
def test_the_full_size_vae_takes_no_more_than_predicted(what: str) -> None:
    vae = VAE(VAEConfig()).bfloat16().eval().requires_grad_(False)
    latent, video = torch.randn(1, 16, 2, 6, 6), torch.randn(1, 3, 5, 48, 48)
    work = (lambda: vae.decode(latent)) if what == "decode" else (lambda: vae.encode(video))
    assert traced_peak_bytes(work) <= vae_activation_bytes((2, 6, 6), None, None, 2)


@pytest.mark.parametrize("frames", [9, 65, 129])
def test_encoding_in_tiles_takes_no_more_than_predicted_however_long_the_video(
    frames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "WINDOW_BYTES", 2**18)
    config = VAEConfig(block_out_channels=(8, 8, 16, 16), norm_groups=4)
    vae = VAE(config).bfloat16().eval().requires_grad_(False)
    video, tiling = torch.randn(1, 3, frames, 32, 48), Tiling(32, 16, 0.25)
    predicted = vae_activation_bytes((frames // 4 + 1, 4, 6), tiling.tile_size_px, tiling.tile_frames, 2, config)
    assert traced_peak_bytes(lambda: vae.encode(video, tiling)) <= predicted


def test_tiles_are_the_originals_where_they_fit_and_then_shrink_in_time_first() -> None:
    config, latent = HUNYUAN_VIDEO_VAE, (33, 90, 160)
    needs = [vae_activation_bytes(latent, t.tile_size_px, t.tile_frames, 2, config) for t in tilings(config)]
    assert needs == sorted(needs, reverse=True)
    assert tilings(config)[0] == Tiling.original(config)
    assert [(t.tile_size_px, t.tile_frames) for t in tilings(config)] == [
        (256, 64), (256, 32), (256, 16), (192, 16), (128, 16)
    ]  # fmt: skip
    for need, tiling in zip(needs, tilings(config), strict=True):
        assert choose_tiling(config, latent, 2, need) == tiling
    with pytest.raises(
        GeometryError, match=r"0\.\d GB for its smallest tiles \(128 px, 16 frames\), but 0\.1 GB are free"
    ):
        choose_tiling(config, latent, 2, 10**8)


def test_720p_with_129_frames_decodes_within_the_published_figures() -> None:
    needs = [vae_activation_bytes((33, 90, 160), 256, frames, 2) for frames in (64, 32, 16)]
    assert all(need <= limit for need, limit in zip(needs, (4e9, 2.5e9, 1.5e9), strict=True))


def test_running_out_of_memory_leads_to_the_next_smaller_tiles_said_aloud(caplog: pytest.LogCaptureFixture) -> None:
    config, tried, released = HUNYUAN_VIDEO_VAE, [], []

    def decode(tiling: Tiling) -> str:
        tried.append(tiling)
        if len(tried) == 1:
            raise torch.cuda.OutOfMemoryError("tried to allocate 2 GiB")
        return "video"

    def release() -> None:
        assert sys.exc_info() == (None, None, None)
        released.append(len(tried))

    assert with_smaller_tiles(decode, config, tilings(config)[1], release) == "video"
    assert tried == tilings(config)[1:3]
    assert released == [1]
    assert "out of memory (tried to allocate 2 GiB). Again with tiles of 256 px and 16 frames" in caplog.text


def test_the_smallest_tiles_running_out_of_memory_is_an_error() -> None:
    def decode(tiling: Tiling) -> None:
        raise torch.cuda.OutOfMemoryError

    with pytest.raises(torch.cuda.OutOfMemoryError):
        with_smaller_tiles(decode, HUNYUAN_VIDEO_VAE, Tiling.original(HUNYUAN_VIDEO_VAE), lambda: None)


def test_what_is_too_large_in_one_piece_is_done_in_tiles_once_its_memory_is_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    done: list[str] = []

    def whole() -> str:
        raise torch.cuda.OutOfMemoryError("tried to allocate 2 GiB")

    def release() -> None:
        assert sys.exc_info() == (None, None, None)
        done.append("released")

    assert whole_or_tiled(whole, lambda: f"tiled, {done[0]}", release) == "tiled, released"
    assert "out of memory (tried to allocate 2 GiB). Again in tiles" in caplog.text


def test_what_fits_or_fails_otherwise_in_one_piece_is_not_tried_in_tiles() -> None:
    def fails() -> str:
        raise RuntimeError("shapes differ")

    assert whole_or_tiled(lambda: "whole", fails, fails) == "whole"
    with pytest.raises(RuntimeError, match="shapes differ"):
        whole_or_tiled(fails, lambda: "tiled", lambda: None)


# --- plans --------------------------------------------------------------------------------------------------------

CLIP, WEIGHTS_BYTES = (33, 90, 160), 500_000_000


def test_a_plan_has_the_first_tiles_that_fit_beside_the_weights() -> None:
    need = decoding_with(tilings(HUNYUAN_VIDEO_VAE)[1], CLIP, WEIGHTS_BYTES, 2, 0).peak_bytes
    plan = plan_decoding(CLIP, WEIGHTS_BYTES, 2, need)
    assert plan.tiling == tilings(HUNYUAN_VIDEO_VAE)[1]
    assert plan.peak_bytes == need == WEIGHTS_BYTES + plan.activation_bytes
    assert plan_decoding(CLIP, WEIGHTS_BYTES, 2, need - 1).tiling == tilings(HUNYUAN_VIDEO_VAE)[2]
    with pytest.raises(GeometryError, match="The VAE needs"):
        plan_decoding(CLIP, WEIGHTS_BYTES, 2, WEIGHTS_BYTES)


def test_a_plan_without_tiles_says_so_and_takes_most() -> None:
    whole = decoding_with(None, CLIP, WEIGHTS_BYTES, 2, 0)
    assert "VAE: no tiles" in whole.describe()
    assert whole.activation_bytes == vae_activation_bytes(CLIP, None, None, 2)
    assert whole.peak_bytes > decoding_with(Tiling(256, 64, 0.25), CLIP, WEIGHTS_BYTES, 2, 0).peak_bytes
