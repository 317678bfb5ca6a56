"""Clips to look at while a run samples: cheap pictures of a latent, at no more than a share of the run's time."""

from hyvideo_core.preview.clip import Clip
from hyvideo_core.preview.latent_rgb import LatentRGB, own_rows
from hyvideo_core.preview.previewer import Previewer
from hyvideo_core.preview.sheet import Sheet, sheet
from hyvideo_core.preview.taehv import Taehv
from hyvideo_core.preview.taehv_file import load_taehv

__all__ = ["Clip", "LatentRGB", "Previewer", "Sheet", "Taehv", "load_taehv", "own_rows", "sheet"]
