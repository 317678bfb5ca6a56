"""Checkpoints: which file is what, under which names, and how it becomes a module."""

from hyvideo_core.weights.dit import load_dit
from hyvideo_core.weights.vae import load_vae

__all__ = ["load_dit", "load_vae"]
