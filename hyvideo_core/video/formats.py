"""The formats a video can be saved in. Another format is another entry of ``FORMATS``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

#: What was chosen, by the names of a format's options.
Chosen: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True)
class Number:
    """A whole number to choose."""

    name: str
    default: int
    least: int
    most: int
    tooltip: str


@dataclass(frozen=True)
class Choice:
    """One of some words; the first is the default."""

    name: str
    words: tuple[str, ...]
    tooltip: str

    @property
    def default(self) -> str:
        """The first word."""
        return self.words[0]


@dataclass(frozen=True)
class Switch:
    """On or off."""

    name: str
    default: bool
    tooltip: str


Option: TypeAlias = Number | Choice | Switch


@dataclass(frozen=True)
class Codec:
    """How ffmpeg encodes: the encoder's name, its arguments, and the pixels it stores, which tell the padding."""

    encoder: str
    arguments: tuple[str, ...] = ()
    pixels: str = ""
    #: Frames with a shorter side are left to the next codec.
    least_px: int = 1


#: ``remux`` copies the encoded video beside the audio and the tags; the others are made from a lossless draft, or, as
#: pictures, without ffmpeg.
Finish: TypeAlias = Literal["remux", "gif", "webp", "pictures"]


@dataclass(frozen=True)
class Format:
    """One way to save a video.

    ``codecs`` gives, for what was chosen, the codecs that will do: the first that this ffmpeg has is used.
    ``bits`` are those of the frames that the encoder is given.
    """

    name: str
    suffix: str
    codecs: Callable[[Chosen], tuple[Codec, ...]]
    options: tuple[Option, ...] = ()
    bits: Callable[[Chosen], int] = field(default=lambda chosen: 8)
    sound: tuple[Codec, ...] = ()
    finish: Finish = "remux"
    #: Browsers play it.
    playable: bool = False
    #: ComfyUI's frontend reads the workflow from it; else a picture with the workflow is saved beside.
    opens: bool = True
    #: Frames a second that players honour.
    most_fps: float = 1000.0

    def choose(self, chosen: Chosen) -> dict[str, Any]:
        """``chosen`` with the defaults of what is not in it. Raises ``KeyError`` for what is no option."""
        known = {option.name: option.default for option in self.options}
        unknown = chosen.keys() - known.keys()
        if unknown:
            raise KeyError(f"{self.name} has no option {', '.join(sorted(unknown))}, but {', '.join(known) or 'none'}")
        return known | dict(chosen)


AAC = (Codec("aac", ("-b:a", "192k")),)
#: Lossless, as the draft of formats that are made in more than one pass.
DRAFT = Codec("ffv1", ("-level", "3", "-g", "1"), "bgr0")

_EIGHT_OR_SIXTEEN = "8 bits hold what screens show. 16 keep all that the decoder gives, for colour grading; larger."


def _crf(default: int, most: int, what: str) -> Number:
    return Number("crf", default, 0, most, f"Quality of {what}: lower is better and larger. {default} is a good start.")


def _loops() -> Number:
    return Number("loops", 0, 0, 100, "How often it plays; 0 is for ever.")


def _depth() -> Choice:
    return Choice("depth", ("8 bit", "16 bit"), _EIGHT_OR_SIXTEEN)


def _bits(chosen: Chosen) -> int:
    return int(str(chosen["depth"]).split()[0])


def _h264(chosen: Chosen) -> tuple[Codec, ...]:
    return (Codec("libx264", ("-crf", str(chosen["crf"]), "-preset", "medium"), "yuv420p"),)


def _hevc(chosen: Chosen) -> tuple[Codec, ...]:
    # Apple's players want the tag hvc1.
    told = ("-x265-params", "log-level=error", "-tag:v", "hvc1")
    return (Codec("libx265", ("-crf", str(chosen["crf"]), "-preset", "medium", *told), "yuv420p10le"),)


def _av1(chosen: Chosen) -> tuple[Codec, ...]:
    crf = ("-crf", str(chosen["crf"]))
    return (
        # SVT-AV1 4.2 crashes on frames this small.
        Codec("libsvtav1", (*crf, "-preset", "6"), "yuv420p10le", least_px=64),
        Codec("libaom-av1", (*crf, "-b:v", "0", "-cpu-used", "6", "-row-mt", "1"), "yuv420p10le"),
    )


def _vp9(chosen: Chosen) -> tuple[Codec, ...]:
    arguments = ("-crf", str(chosen["crf"]), "-b:v", "0", "-deadline", "good", "-cpu-used", "3", "-row-mt", "1")
    return (Codec("libvpx-vp9", arguments, "yuv420p"),)


#: Names of the profiles and the numbers of ffmpeg's prores_ks.
_PRORES = {"422 HQ": "3", "422": "2", "422 LT": "1", "422 Proxy": "0", "4444": "4"}


def _prores(chosen: Chosen) -> tuple[Codec, ...]:
    pixels = "yuv444p10le" if chosen["profile"] == "4444" else "yuv422p10le"
    return (Codec("prores_ks", ("-profile:v", _PRORES[chosen["profile"]], "-vendor", "apl0"), pixels),)


def _ffv1(chosen: Chosen) -> tuple[Codec, ...]:
    pixels = "bgr0" if _bits(chosen) == 8 else "gbrp16le"
    return (Codec("ffv1", ("-level", "3", "-g", "1", "-slices", "4", "-slicecrc", "1"), pixels),)


H264 = Format("H.264 mp4", ".mp4", _h264, (_crf(16, 51, "H.264"),), sound=AAC, playable=True)

#: By the names that workflows hold: an entry may be added, but not renamed.
FORMATS: dict[str, Format] = {
    entry.name: entry
    for entry in (
        H264,
        Format("HEVC 10-bit mp4", ".mp4", _hevc, (_crf(18, 51, "HEVC"),), lambda chosen: 16, AAC),
        Format("AV1 10-bit mp4", ".mp4", _av1, (_crf(20, 63, "AV1"),), lambda chosen: 16, AAC, playable=True),
        Format(
            "VP9 webm",
            ".webm",
            _vp9,
            (_crf(20, 63, "VP9"),),
            sound=(Codec("libopus", ("-b:a", "160k")), Codec("libvorbis", ("-q:a", "6"))),
            playable=True,
        ),
        Format(
            "ProRes mov",
            ".mov",
            _prores,
            (
                Choice(
                    "profile", tuple(_PRORES), "For editing. 4444 keeps every pixel's colour; Proxy is the smallest."
                ),
            ),
            lambda chosen: 16,
            (Codec("pcm_s24le"),),
        ),
        # The mapping to mov is RFC 9043's own, and the frontend reads a workflow from mov but not from mkv.
        Format("FFV1 lossless mov", ".mov", _ffv1, (_depth(),), _bits, (Codec("pcm_s24le"),)),
        Format(
            "H.264 lossless mp4",
            ".mp4",
            lambda chosen: (Codec("libx264rgb", ("-qp", "0", "-preset", "medium"), "rgb24"),),
            sound=(Codec("flac", ("-strict", "-2")),),
        ),
        Format(
            "WebP",
            ".webp",
            lambda chosen: (DRAFT,),
            (
                Number("quality", 90, 0, 100, "Higher is better and larger; of a lossless one, the effort."),
                Switch("lossless", False, "Every pixel exactly, in a much larger file."),
                _loops(),
            ),
            finish="webp",
        ),
        Format(
            "GIF",
            ".gif",
            lambda chosen: (DRAFT,),
            (_loops(),),
            finish="gif",
            opens=False,
            most_fps=50.0,
        ),
        Format("PNG sequence", "", lambda chosen: (), (_depth(),), _bits, finish="pictures"),
    )
}
