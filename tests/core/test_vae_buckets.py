"""The official sizes are the original's, and the nearest one is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyvideo_core.errors import GeometryError
from hyvideo_core.types import Geometry
from hyvideo_core.vae.buckets import RESOLUTIONS, bucket_sizes, nearest_bucket

SIDES = st.integers(1, 5000)


def walked(side_px: int, step_px: int = 32, longest: float = 4.0) -> list[tuple[int, int]]:
    """The list as the original comes to it: down a staircase, one row or column at a time."""
    area = round((side_px / step_px) ** 2)
    sizes, rows, columns = [], area, 1
    while rows > 0:
        if max(rows, columns) / min(rows, columns) <= longest:
            sizes.append((rows * step_px, columns * step_px))
        if (columns + 1) * rows <= area:
            columns += 1
        else:
            rows -= 1
    return sizes


@pytest.mark.parametrize("resolution", RESOLUTIONS)
def test_sizes_are_the_originals_and_the_model_can_represent_them(resolution: str) -> None:
    sizes = bucket_sizes(resolution)
    assert sizes == walked(RESOLUTIONS[resolution])
    for height, width in sizes:
        Geometry(width, height)
        assert height * width <= RESOLUTIONS[resolution] ** 2


@pytest.mark.parametrize(
    ("size", "resolution", "expected"),
    [
        ((720, 1280), "720p", (704, 1248)),
        ((1280, 720), "720p", (1248, 704)),
        ((1, 1), "720p", (960, 960)),
        ((544, 960), "540p", (512, 928)),
        ((1080, 1920), "360p", (352, 640)),
        ((1, 100), "360p", (224, 896)),
    ],
)
def test_well_known_shapes(size: tuple[int, int], resolution: str, expected: tuple[int, int]) -> None:
    assert nearest_bucket(*size, resolution) == expected


@given(SIDES, SIDES, st.sampled_from(sorted(RESOLUTIONS)))
def test_no_other_size_is_nearer_and_of_equals_it_is_the_first(height: int, width: int, resolution: str) -> None:
    sizes = walked(RESOLUTIONS[resolution])
    distances = [abs(round(rows / columns, 5) - height / width) for rows, columns in sizes]
    assert nearest_bucket(height, width, resolution) == sizes[distances.index(min(distances))]


@pytest.mark.parametrize("size", [(0, 5), (5, 0)])
def test_an_image_without_pixels_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(GeometryError, match="needs a pixel at least"):
        nearest_bucket(*size, "720p")


def test_another_resolution_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^resolution is '480p', but must be one of 360p, 540p, 720p"):
        bucket_sizes("480p")
