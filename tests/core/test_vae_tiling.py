"""Laws of the tiling alone, with stand-in networks that read each latent's own pixels and nothing around them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hyvideo_core.configs import HUNYUAN_VIDEO_VAE
from hyvideo_core.errors import GeometryError
from hyvideo_core.vae.tiling import TilePlan, Tiling, blend_, plan_decode, plan_encode, run_tiled

tilings = st.builds(
    Tiling,
    tile_size_px=st.integers(1, 6).map(lambda n: 8 * n),
    tile_frames=st.integers(1, 6).map(lambda n: 4 * n),
    overlap=st.floats(0, 0.95),
    spatial=st.booleans(),
    temporal=st.booleans(),
)
latents = st.tuples(st.integers(1, 20), st.integers(1, 15), st.integers(1, 15))
videos = st.tuples(st.integers(1, 80), st.integers(1, 90), st.integers(1, 90))


def sampling_encoder(video: torch.Tensor) -> torch.Tensor:
    return video[:, :, ::4, ::8, ::8].clone()


def repeating_decoder(latent: torch.Tensor) -> torch.Tensor:
    frames = latent.repeat_interleave(4, dim=2)[:, :, 3:]
    return frames.repeat_interleave(8, dim=3).repeat_interleave(8, dim=4)


def assert_covers(plan: TilePlan) -> None:
    for segments, size in zip((plan.frames, plan.rows, plan.columns), plan.shape, strict=True):
        covered = [i for segment in segments for i in range(segment.target.start, segment.target.stop)]
        assert covered == list(range(size))


@given(shape=videos, tiling=tilings)
def test_the_tiles_of_a_video_fill_every_latent_exactly_once(shape: tuple[int, int, int], tiling: Tiling) -> None:
    plan = plan_encode(shape, tiling)
    assert plan.shape == ((shape[0] - 1) // 4 + 1, -(-shape[1] // 8), -(-shape[2] // 8))
    assert_covers(plan)


@given(shape=latents, tiling=tilings)
def test_the_tiles_of_a_latent_fill_every_pixel_exactly_once(shape: tuple[int, int, int], tiling: Tiling) -> None:
    plan = plan_decode(shape, tiling)
    assert plan.shape == (4 * (shape[0] - 1) + 1, 8 * shape[1], 8 * shape[2])
    assert_covers(plan)


@settings(max_examples=60, deadline=None)
@given(shape=latents, tiling=tilings)
def test_tiles_of_a_local_decoder_equal_the_whole_bit_by_bit(shape: tuple[int, int, int], tiling: Tiling) -> None:
    latent = torch.rand(1, 1, *shape)
    tiled = torch.cat(list(run_tiled(repeating_decoder, latent, plan_decode(shape, tiling))), dim=2)
    assert torch.equal(tiled, repeating_decoder(latent))


@settings(max_examples=60, deadline=None)
@given(shape=videos, tiling=tilings)
def test_tiles_of_a_local_encoder_equal_the_whole_bit_by_bit(shape: tuple[int, int, int], tiling: Tiling) -> None:
    video = torch.rand(1, 1, *shape)
    tiled = torch.cat(list(run_tiled(sampling_encoder, video, plan_encode(shape, tiling))), dim=2)
    assert torch.equal(tiled, sampling_encoder(video))


@given(shape=latents, tiling=tilings)
def test_no_tile_is_larger_than_asked_for(shape: tuple[int, int, int], tiling: Tiling) -> None:
    plan = plan_decode(shape, tiling)
    if tiling.spatial and max(shape[1:]) * 8 > tiling.tile_size_px:
        for segment in (*plan.rows, *plan.columns):
            assert 8 * (segment.source.stop - segment.source.start) <= tiling.tile_size_px
    if tiling.temporal:
        for segment in plan.frames:
            assert 4 * (segment.source.stop - segment.source.start - 1) <= tiling.tile_frames


def test_the_original_cuts_a_129_frame_720p_latent_into_three_by_four_by_seven_tiles() -> None:
    plan = plan_decode((33, 90, 160), Tiling.original(HUNYUAN_VIDEO_VAE))
    assert (len(plan.frames), len(plan.rows), len(plan.columns)) == (3, 4, 7)
    assert [segment.source for segment in plan.frames] == [slice(0, 17), slice(12, 29), slice(24, 33)]
    assert [segment.target for segment in plan.frames] == [slice(0, 49), slice(49, 97), slice(97, 129)]
    assert [segment.blend for segment in plan.rows] == [0, 64, 64, 64]


def test_a_switched_off_axis_is_never_cut() -> None:
    assert plan_decode((99, 4, 4), Tiling(256, 64, 0.25, temporal=False)).tiles == 1
    assert plan_decode((2, 99, 99), Tiling(256, 64, 0.25, spatial=False)).tiles == 1


@pytest.mark.parametrize("dim", [2, 3, 4])
def test_blending_fades_linearly_from_the_previous_tile_into_this_one(dim: int) -> None:
    tile = torch.ones(1, 1, 6, 6, 6)
    shape = [1, 1, 6, 6, 6]
    shape[dim] = 4
    blend_(torch.zeros(shape), tile, dim)
    assert tile.mean(dim=[d for d in range(5) if d != dim]).tolist() == [0, 0.25, 0.5, 0.75, 1, 1]


@given(value=st.floats(-1e3, 1e3, width=32), extent=st.integers(1, 70))
def test_blending_equal_tiles_changes_no_bit(value: float, extent: int) -> None:
    tile = torch.full((1, 1, 1, 1, 80), value)
    blend_(tile[..., :extent].clone(), tile, 4)
    assert torch.equal(tile, torch.full_like(tile, value))


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        ((250, 64, 0.25), "tile_size_px is 250.*multiple of 8.*Use 248"),
        ((0, 64, 0.25), "tile_size_px is 0.*Use 8"),
        ((256, 30, 0.25), "tile_frames is 30.*multiple of 4.*Use 28"),
        ((256, 64, 1.0), "overlap is 1.0.*Use 0.25"),
        ((256, 64, -0.1), "overlap is -0.1"),
    ],
)
def test_impossible_tilings_are_refused_with_a_remedy(arguments: tuple[int, int, float], hint: str) -> None:
    with pytest.raises(GeometryError, match=hint):
        Tiling(*arguments)
