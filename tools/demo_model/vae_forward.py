"""The VAE's forward with gradients, over the modules of ``hyvideo_core.vae``.

The pack's own forward is made to hold little memory: it works in place and cannot be differentiated. This one holds
everything, and a test says that both compute the same.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from hyvideo_core.vae import VAE, Posterior
from hyvideo_core.vae.autoencoder import Decoder, Encoder
from hyvideo_core.vae.blocks import CausalAttention, CausalConv3d, DownBlock, MidBlock, ResnetBlock, UpBlock


def encode(vae: VAE, video: Tensor) -> Posterior:
    """``VAE.encode`` of video [B, 3, T, H, W]."""
    return Posterior(vae.quant_conv(_encoder(vae.encoder, video)))


def decode(vae: VAE, latent: Tensor) -> Tensor:
    """``VAE.decode`` of an unscaled latent [B, 16, t, h, w]."""
    return _decoder(vae.decoder, vae.post_quant_conv(latent))


def _encoder(encoder: Encoder, x: Tensor) -> Tensor:
    x = _conv(encoder.conv_in, x)
    for block in encoder.down_blocks:
        x = _level(block, x)
    x = _middle(encoder.mid_block, x)
    return _conv(encoder.conv_out, F.silu(encoder.conv_norm_out(x)))


def _decoder(decoder: Decoder, x: Tensor) -> Tensor:
    x = _middle(decoder.mid_block, _conv(decoder.conv_in, x))
    for block in decoder.up_blocks:
        x = _level(block, x)
    return _conv(decoder.conv_out, F.silu(decoder.conv_norm_out(x)))


def _level(block: DownBlock | UpBlock, x: Tensor) -> Tensor:
    for resnet in block.resnets:
        x = _resnet(resnet, x)
    if isinstance(block, DownBlock):
        for step in block.downsamplers:
            x = _conv(step.conv, x)
        return x
    for step in block.upsamplers:
        up = F.interpolate(x, scale_factor=(step.time_factor, 2, 2), mode="nearest")
        x = _conv(step.conv, up[:, :, step.time_factor - 1 :])  # the first frame has no twin
    return x


def _middle(block: MidBlock, x: Tensor) -> Tensor:
    x = _resnet(block.resnets[0], x)
    for attention in block.attentions:
        x = _attention(attention, x)
    return _resnet(block.resnets[1], x)


def _resnet(block: ResnetBlock, x: Tensor) -> Tensor:
    hidden = _conv(block.conv1, F.silu(block.norm1(x)))
    hidden = _conv(block.conv2, F.silu(block.norm2(hidden)))
    return hidden + (x if block.conv_shortcut is None else _conv(block.conv_shortcut, x))


def _attention(block: CausalAttention, x: Tensor) -> Tensor:
    _, _, frames, height, width = x.shape
    tokens = block.group_norm(x).flatten(2).transpose(1, 2)
    frame = torch.arange(frames, device=x.device).repeat_interleave(height * width)
    seen = frame[:, None] >= frame
    mixed = F.scaled_dot_product_attention(
        block.to_q(tokens)[:, None], block.to_k(tokens)[:, None], block.to_v(tokens)[:, None], attn_mask=seen
    )
    return x + block.to_out[0](mixed[:, 0]).transpose(1, 2).unflatten(2, (frames, height, width))


def _conv(causal: CausalConv3d, x: Tensor) -> Tensor:
    if causal.causal:
        x = F.pad(x, (1, 1, 1, 1, causal.causal, 0), mode="replicate")
    return causal.conv(x)
