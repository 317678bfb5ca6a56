"""Frames to a file: which formats there are, and how they are written as frames come."""

from hyvideo_core.video.formats import FORMATS, H264, Choice, Format, Number, Option, Switch
from hyvideo_core.video.frames import Frame, Image, frame
from hyvideo_core.video.sound import Sound
from hyvideo_core.video.writer import Saved, Video, check, write, write_mp4

__all__ = [
    "FORMATS",
    "H264",
    "Choice",
    "Format",
    "Frame",
    "Image",
    "Number",
    "Option",
    "Saved",
    "Sound",
    "Switch",
    "Video",
    "check",
    "frame",
    "write",
    "write_mp4",
]
