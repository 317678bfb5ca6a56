"""The colours of a video: how they are converted, and what the file says of them."""

from __future__ import annotations

#: Players take untagged video of HD size for BT.709, but swscale converts by BT.601 unless it is told: the colours are
#: converted by BT.709 whatever the size, and the file says so. Old versions of ffmpeg tag by the options alone, those
#: since 7 by what the filters say.
_PRIMARIES = {"color_primaries": "bt709", "color_trc": "bt709"}
_BT709 = _PRIMARIES | {"colorspace": "bt709"}


def is_rgb(pixels: str) -> bool:
    """Whether the pixels of ffmpeg's name are red, green and blue, which no matrix converts."""
    return pixels.startswith(("rgb", "bgr", "gbr"))


def arguments(pixels: str, *, scale: str = "") -> list[str]:
    """Arguments of ffmpeg to store ``pixels`` with the right colours; ``scale`` is a size as its filter wants it."""
    if is_rgb(pixels):
        tags = _PRIMARIES
        filters = f"setparams={_joined(tags)}"
    else:
        tags = _BT709
        size = f"{scale}:" if scale else ""
        filters = f"scale={size}out_color_matrix=bt709:out_range=tv,setparams={_joined(tags)}"
    return ["-vf", filters, "-pix_fmt", pixels, *(part for key, value in tags.items() for part in (f"-{key}", value))]


def multiple_px(pixels: str) -> tuple[int, int]:
    """What width and height must be multiples of, as the colour of pixels beside and above each other is shared."""
    return (2 if "420" in pixels or "422" in pixels else 1), (2 if "420" in pixels else 1)


def _joined(tags: dict[str, str]) -> str:
    return ":".join(f"{key}={value}" for key, value in tags.items())
