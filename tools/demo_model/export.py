"""Writes the trained networks as the files that are shipped: ``python -m tools.demo_model.export vae text …``."""

from __future__ import annotations

import sys
from typing import TypeVar

import torch
from torch import Tensor, nn

from hyvideo_core.model.dit import DiT
from hyvideo_core.preview.latent_rgb import KEY
from hyvideo_core.vae import VAE
from tools.demo_model import distill, files, train_dit, train_lora, train_text, train_vae
from tools.demo_model.colours import fitted
from tools.demo_model.latents import encoded
from tools.demo_model.training import Draw, Recipe, Training
from tools.demo_model.world import CLIP_FRAMES, Scene, random_scene

M = TypeVar("M", bound=nn.Module)

CLIPS_MEASURED = 192
TITLE = "HyVideo Studio demo"


def vae() -> None:
    """The VAE, its latent brought to means of 0 and the deviation whose product with the scaling factor is 1."""
    last, stage = list(train_vae.STAGES.items())[-1]
    module = trained(last, VAE(train_vae.CONFIG), stage.recipe)
    normalise(module)
    config = {
        "block_out_channels": module.config.block_out_channels,
        "norm_num_groups": module.config.norm_groups,
        "scaling_factor": module.config.scaling_factor,
    }
    files.write(files.VAE, module.state_dict(), f"{TITLE}: VAE", config)


@torch.no_grad()
def normalise(module: VAE) -> None:
    """Fold an affine map of the latent into the last layer of the encoder and the first of the decoder.

    Channels keep their deviations relative to one another: one of little weight in the picture is to weigh little in
    the transformer's loss.
    """
    latent = encoded(module, measured_scenes(), CLIP_FRAMES).transpose(0, 1).flatten(1) / module.scaling_factor
    mean = latent.mean(1)
    factor = 1 / (module.scaling_factor * (latent - mean[:, None]).std())
    channels = module.config.latent_channels
    encoder, decoder = module.quant_conv, module.post_quant_conv
    assert encoder.bias is not None
    assert decoder.bias is not None
    # z' = (z − mean)·factor; the log-variance moves by twice the factor's logarithm.
    encoder.bias[:channels] = (encoder.bias[:channels] - mean) * factor
    encoder.weight[:channels] *= factor
    encoder.bias[channels:] += 2 * factor.log()
    decoder.bias += torch.einsum("oi,i->o", decoder.weight[:, :, 0, 0, 0], mean)
    decoder.weight /= factor


def measured_scenes() -> list[Scene]:
    """Clips that stand for all."""
    draw = Draw.of("normalise", 0)
    return [random_scene(draw.rng, 64, 64, anywhere=True) for _ in range(CLIPS_MEASURED)]


def text() -> None:
    """The language model and CLIP, each with its tokenizer in the metadata."""
    for_llama, for_clip = train_text.tokenizers()
    llama = trained("llama", train_text.LlamaReader(), train_text.LLAMA_RECIPE).llama
    config = {"model_type": "llama", **train_text.LLAMA}
    files.write(files.LLAMA, prefixed("model.", llama), f"{TITLE}: language model", config, tokenizer=for_llama)
    clip = trained("clip", train_text.ClipReader(), train_text.RECIPE).clip
    config = {"model_type": "clip_text_model", **train_text.CLIP}
    files.write(files.CLIP, prefixed("text_model.", clip), f"{TITLE}: CLIP text model", config, tokenizer=for_clip)


def i2v() -> None:
    """The undistilled transformer: text to video with true guidance, and image to video."""
    last, stage = list(train_dit.STAGES.items())[-1]
    module = trained(last, DiT(train_dit.CONFIG), stage.recipe)
    files.write(files.I2V, module.state_dict(), f"{TITLE}: text and image to video, undistilled", **colours())


def t2v() -> None:
    """The transformer with guidance distilled into it."""
    module = trained("distilled", DiT(distill.STUDENT_CONFIG), distill.RECIPE)
    files.write(files.T2V, module.state_dict(), f"{TITLE}: text to video", **colours())


def colours() -> dict[str, str]:
    """What previews need to know of the VAE's latents."""
    return {KEY: fitted()}


def lora() -> None:
    """The LoRA, in the names that diffusers and PEFT write."""
    terms = trained("lora", train_lora.Terms(DiT(distill.STUDENT_CONFIG)), train_lora.RECIPE).terms()
    tensors = {}
    for name, term in terms.items():
        tensors[f"diffusion_model.{name}.lora_A.weight"] = term.down
        tensors[f"diffusion_model.{name}.lora_B.weight"] = term.up
    files.write(files.LORA, tensors, f"{TITLE}: night")


def trained(name: str, module: M, recipe: Recipe) -> M:
    """The module with the averaged weights of its training, as far as it has come."""
    training = Training(name, module, recipe)
    if not training.step:
        raise SystemExit(f"{training.checkpoint} is not there: the training '{name}' has not been run.")
    training.use_average()
    print(f"{name}: step {training.step} of {training.recipe.steps}")
    return module


def prefixed(prefix: str, module: nn.Module) -> dict[str, Tensor]:
    """The parameters under the official names; versions of transformers differ in the outermost level."""
    return {prefix + name.removeprefix(prefix): tensor for name, tensor in module.named_parameters()}


PARTS = {"vae": vae, "text": text, "i2v": i2v, "t2v": t2v, "lora": lora}

if __name__ == "__main__":
    for part in sys.argv[1:] or PARTS:
        PARTS[part]()
