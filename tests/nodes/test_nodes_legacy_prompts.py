"""Old prompts: with images in them, as files, from ComfyUI's own encoders, and empty."""

from __future__ import annotations

import jobs
import pytest
import torch
from old_jobs import complete, latent_of, old
from safetensors.torch import load_file

pytestmark = pytest.mark.usefixtures("old_files")


def test_images_in_the_prompt(studio):
    job = old("i2v", {"1.model": jobs.MODEL, "3.image_cond_latents": None})
    seeing = complete("HyVideoTextImageEncode", {"prompt": "a cat in <image>", "text_encoders": ["16", 0]})
    job["30"] = jobs.changed({"30": seeing}, {"30.image1": ["52", 0]})["30"]
    found = latent_of(studio, job)
    assert not torch.equal(found, latent_of(studio, jobs.changed(job, {"30.clip_text_override": "a dog"})))
    assert not torch.equal(found, latent_of(studio, jobs.changed(job, {"30.image_token_selection_expr": ""})))


def test_prompts_are_saved_loaded_bridged_and_empty(studio):
    job = old("v2v_cfg")
    direct = latent_of(studio, job)
    kept = job | {"saved": complete("HyVideoTextEmbedsSave", {"hyvid_embeds": ["30", 0]})}
    kept["shown"] = jobs.node("PreviewAny", source=["saved", 0])
    studio.run({name: node for name, node in kept.items() if name in ("16", "30", "55", "saved", "shown")})
    (path,) = (studio.server.output / "hyvid_embeds").glob("hyvid_embed_*.safetensors")
    assert set(load_file(path)) >= {"prompt_embeds", "prompt_embeds_2", "negative_prompt_embeds", "cfg"}
    job["30"] = jobs.node("HyVideoTextEmbedsLoad", embeds=path.name)
    assert torch.equal(latent_of(studio, job), direct)
    native = jobs.text_to_latent(
        {
            "prompt.negative": "blurry, low quality",
            "encoders.dtype": "float16",
            "encoders.llm": "llava_llama3_fp16.safetensors",
            "encoders.clip": "clip_l.safetensors",
        }
    )
    job |= {"native": native["prompt"], "encoders": native["encoders"]}
    bridge = {"positive": ["native", 0], "negative": ["native", 1], "cfg": 3.0, "end_percent": 0.5}
    job["30"] = complete("HyVideoTextEmbedBridge", bridge | {"use_cfg_zero_star": False})
    assert torch.equal(latent_of(studio, job), direct)
    job["30"] = jobs.node("HyVideoEmptyTextEmbeds")
    assert torch.isfinite(latent_of(studio, job)).all()


def test_comfyuis_clip_takes_the_place_of_the_loaders(studio):
    job = old("t2v")
    job["clip"] = jobs.node(
        "DualCLIPLoader", clip_name1=jobs.CLIP, clip_name2=jobs.LLAMA, type="hunyuan_video", device="default"
    )
    elsewhere = jobs.changed(job, {"16.clip_model": "disabled", "30.clip_l": ["clip", 0]})
    found, usual = latent_of(studio, elsewhere), latent_of(studio, old("t2v"))
    assert (found - usual).norm() < 0.2 * usual.norm()
    outputs = studio.run(old("t2v", {"16.clip_model": "disabled"}))
    assert "CLIP-L is used all the same" in outputs["30"]["text"][0]
