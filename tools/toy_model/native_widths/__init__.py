"""For tests only: lets ComfyUI's own loaders build HunyuanVideo parts at a file's widths.

ComfyUI knows the HunyuanVideo text encoders and VAE at their full widths alone, so its DualCLIPLoader and
VAELoader cannot read the toy checkpoint of ``tools/toy_model``. This package passes the widths found in a
file to ComfyUI's own classes: the model options its text encoders read, and the ``ch`` of its autoencoder.
The code that then runs is ComfyUI's, unchanged. Files of full width are not touched.
``tools/server.py`` installs it for test servers; it is no part of the pack.
"""

from __future__ import annotations

import functools
from unittest import mock

import comfy.sd

NODE_CLASS_MAPPINGS: dict[str, type] = {}

LLAMA_WIDTH = 4096
LLAMA_HEAD_DIM = 128
CLIP_WIDTH = 768
CLIP_HEAD_DIM = 64
VAE_WIDTH = 128

LLAMA_EMBEDDING = "model.embed_tokens.weight"
CLIP_EMBEDDING = "text_model.embeddings.token_embedding.weight"
#: In the original's names and in ComfyUI's.
VAE_LAST_NORMS = ("decoder.conv_norm_out.weight", "decoder.norm_out.weight")
VAE_VIDEO_MARK = "decoder.conv_in.conv.weight"


def count_layers(state_dict, prefix):
    """Number of consecutive layers whose names start with ``prefix`` and an index."""
    return len({name[len(prefix) :].split(".")[0] for name in state_dict if name.startswith(prefix)})


def llama_widths(state_dict):
    """Settings of ComfyUI's Llama for this file; empty for a full-width file and for anything else."""
    if LLAMA_EMBEDDING not in state_dict or state_dict[LLAMA_EMBEDDING].shape[1] == LLAMA_WIDTH:
        return {}
    layer = "model.layers.0."
    vocabulary, width = state_dict[LLAMA_EMBEDDING].shape
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": state_dict[f"{layer}mlp.gate_proj.weight"].shape[0],
        "num_hidden_layers": count_layers(state_dict, "model.layers."),
        "num_attention_heads": state_dict[f"{layer}self_attn.q_proj.weight"].shape[0] // LLAMA_HEAD_DIM,
        "num_key_value_heads": state_dict[f"{layer}self_attn.k_proj.weight"].shape[0] // LLAMA_HEAD_DIM,
    }


def clip_widths(state_dict):
    """Settings of ComfyUI's CLIP text model for this file; empty for a full-width file and for anything else."""
    if CLIP_EMBEDDING not in state_dict or state_dict[CLIP_EMBEDDING].shape[1] == CLIP_WIDTH:
        return {}
    layers = "text_model.encoder.layers."
    width = state_dict[CLIP_EMBEDDING].shape[1]
    return {
        "hidden_size": width,
        "projection_dim": width,
        "intermediate_size": state_dict[f"{layers}0.mlp.fc1.weight"].shape[0],
        "num_hidden_layers": count_layers(state_dict, layers),
        "num_attention_heads": width // CLIP_HEAD_DIM,
    }


def vae_width(state_dict):
    """Width of a HunyuanVideo VAE's last decoder level; the full width for anything else."""
    if not state_dict or VAE_VIDEO_MARK not in state_dict:
        return VAE_WIDTH
    return next((state_dict[name].shape[0] for name in VAE_LAST_NORMS if name in state_dict), VAE_WIDTH)


def pair_with_llama(state_dicts):
    """Whether these are the files of HunyuanVideo's two text encoders."""
    return any(LLAMA_EMBEDDING in sd for sd in state_dicts) and any(CLIP_EMBEDDING in sd for sd in state_dicts)


def with_text_widths(load):
    """``load_text_encoder_state_dicts`` that passes the widths on."""

    @functools.wraps(load)
    def wrapped(state_dicts, *args, **kwargs):
        options = {}
        for state_dict in state_dicts if pair_with_llama(state_dicts) else ():
            if widths := llama_widths(state_dict):
                options["llama_model_config"] = widths
            if widths := clip_widths(state_dict):
                # ComfyUI turns this general key into CLIP-L's own while it adds the number of positions.
                options["model_config"] = widths
        if options:
            kwargs["model_options"] = {**kwargs.get("model_options", {}), **options}
        return load(state_dicts, *args, **kwargs)

    return wrapped


def with_vae_width(init):
    """``VAE.__init__`` that builds the autoencoder at the file's width."""

    @functools.wraps(init)
    def wrapped(self, sd=None, *args, **kwargs):
        width = vae_width(sd)
        if width == VAE_WIDTH:
            return init(self, sd, *args, **kwargs)
        autoencoder = comfy.sd.AutoencoderKL

        def narrow(*, ddconfig, **rest):
            return autoencoder(ddconfig={**ddconfig, "ch": width}, **rest)

        with mock.patch.object(comfy.sd, "AutoencoderKL", narrow):
            return init(self, sd, *args, **kwargs)

    return wrapped


comfy.sd.load_text_encoder_state_dicts = with_text_widths(comfy.sd.load_text_encoder_state_dicts)
comfy.sd.VAE.__init__ = with_vae_width(comfy.sd.VAE.__init__)
