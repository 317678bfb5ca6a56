"""The old samplers that carry a video to noise and back."""

from __future__ import annotations

import jobs
import pytest
import torch
from old_jobs import complete, latent_of, old

pytestmark = pytest.mark.usefixtures("old_files")


def test_inversion_and_the_way_back(studio):
    job = old("v2v_cfg", {"1.base_precision": "fp32"})
    common = {"model": ["1", 0], "samples": ["54", 0], "steps": 6, "end_step": 4}
    job["inverse"] = complete("HyVideoInverseSampler", common | {"hyvid_embeds": ["empty", 0]})
    job["empty"] = jobs.node("HyVideoEmptyTextEmbeds")
    back = common | {"hyvid_embeds": ["30", 0], "inversed_latents": ["inverse", 0]}
    job["3"] = complete("HyVideoReSampler", back)
    clip, noise = latent_of(studio, job, "54"), latent_of(studio, job, "inverse")
    assert noise.shape == clip.shape
    assert not torch.equal(
        noise, latent_of(studio, jobs.changed(job, {"inverse.gamma_trend": "linear_decrease"}), "inverse")
    )
    whole = jobs.changed(job, {"3.eta_base": 1.0, "3.end_step": 6})
    torch.testing.assert_close(latent_of(studio, whole), clip, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(latent_of(studio, job), clip, rtol=1e-3, atol=1e-3)
