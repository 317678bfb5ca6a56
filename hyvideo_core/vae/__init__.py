"""The causal 3D VAE of HunyuanVideo and its tiling."""

from hyvideo_core.vae.autoencoder import VAE, Posterior, Progress
from hyvideo_core.vae.tiling import Segment, TilePlan, Tiling, plan_decode, plan_encode

__all__ = ["VAE", "Posterior", "Progress", "Segment", "TilePlan", "Tiling", "plan_decode", "plan_encode"]
