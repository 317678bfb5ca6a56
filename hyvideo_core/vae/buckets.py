"""The sizes that HunyuanVideo-I2V was trained on, and which of them an image is nearest to.

Source: HunyuanVideo-I2V ``hyvideo/utils/data_utils.py`` (generate_crop_size_list, get_closest_ratio) and
``hyvideo/inference.py`` (i2v_resolution). Sides are multiples of 32 px there, though the model would take 16. How the
image then comes to that size differs between its versions: the first stretched it, later ones scale one side and crop,
but may leave black edges or cut off most of it; ``images.covering`` keeps as much as there can be, as they intend.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from hyvideo_core.errors import GeometryError

#: The side in pixels of a square with as many pixels as a size of that name may have.
RESOLUTIONS: Mapping[str, int] = MappingProxyType({"360p": 480, "540p": 720, "720p": 960})
#: What the sides of a size are multiples of.
STEP_PX = 32
#: How much longer one side may be than the other.
LONGEST = 4


def bucket_sizes(resolution: str) -> list[tuple[int, int]]:
    """All sizes (height, width) in pixels of one of ``RESOLUTIONS``, the tallest first. Raises ``ValueError``.

    They are a staircase just below the curve of equal area: for each height all widths from where the next taller one
    ends to the widest that the area allows.
    """
    if resolution not in RESOLUTIONS:
        raise ValueError(f"resolution is '{resolution}', but must be one of {', '.join(RESOLUTIONS)}.")
    area = round((RESOLUTIONS[resolution] / STEP_PX) ** 2)
    return [
        (rows * STEP_PX, columns * STEP_PX)
        for rows in range(area, 0, -1)
        for columns in range(max(1, area // (rows + 1)), area // rows + 1)
        if max(rows, columns) <= LONGEST * min(rows, columns)
    ]


def nearest_bucket(height: int, width: int, resolution: str) -> tuple[int, int]:
    """The size (height, width) whose shape is nearest to that of an image of ``height``×``width`` pixels.

    Raises ``ValueError`` for another resolution, ``GeometryError`` for an image without pixels.
    """
    if height < 1 or width < 1:
        raise GeometryError(f"The image is {width}×{height} px, but needs a pixel at least. Load another one.")
    ratio = height / width
    # The original compares ratios of five digits.
    return min(bucket_sizes(resolution), key=lambda size: abs(round(size[0] / size[1], 5) - ratio))
