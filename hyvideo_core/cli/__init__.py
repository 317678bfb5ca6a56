"""The command line of the original: a prompt to mp4 files without ComfyUI."""

from hyvideo_core.cli.command import main

__all__ = ["main"]
