"""Long videos, loops, steadier and sparser attention: each option reaches the result, neutral ones leave it alone."""

from __future__ import annotations

import itertools

import jobs
import pytest
import torch

#: 8 latent frames; windows of 3 share 1.
LONG = {"size.frames": 29, "sampler.steps": 2}
WINDOWS = {"window_frames": 9, "overlap_frames": 4, "schedule": "static", "blend": "pyramid", "freenoise": True}
#: One token a tile, each sees its own only.
TILES = {f"{what}_{axis}": 1 for what in ("window", "tile") for axis in ("frames", "height", "width")}
NODES = {
    "HyvContextWindows": WINDOWS,
    "HyvRiflex": {"k": 4, "above_frames": 0},
    "HyvEnhanceAVideo": {"weight": 20.0},
    "HyvSeamlessLoop": {"shift_latent_frames": 3},
    "HyvSlidingTileAttention": TILES | {"start": 0.0},
}


def job_with(*features, changes=None):
    """A long video's job; ``features`` are pairs of a node and its settings, on the way from the model."""
    job, model = jobs.text_to_latent(LONG | (changes or {})), ["model", 0]
    for place, (kind, settings) in enumerate(features):
        job[f"feature{place}"] = jobs.node(kind, model=model, **settings)
        model = [f"feature{place}", 0]
    job["sampler"]["inputs"]["model"] = model
    return job


@pytest.fixture(scope="module")
def known():
    """Latents already computed by this module's tests, by what makes them."""
    return {}


@pytest.fixture
def latent(studio, known):
    """The latent of a job with these features, computed once."""

    def get(*features):
        key = repr(features)
        if key not in known:
            known[key] = studio.saved_latent(job_with(*features))
        return known[key]

    return get


@pytest.mark.parametrize("kind", NODES)
def test_every_feature_changes_the_video(latent, kind):
    found = latent((kind, NODES[kind]))
    assert torch.isfinite(found).all()
    assert not torch.equal(found, latent())


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("HyvContextWindows", {"window_frames": 13}),
        ("HyvContextWindows", {"overlap_frames": 0}),
        ("HyvContextWindows", {"schedule": "uniform"}),
        ("HyvContextWindows", {"schedule": "looped"}),
        ("HyvContextWindows", {"blend": "flat", "overlap_frames": 8}),
        ("HyvContextWindows", {"freenoise": False}),
        ("HyvContextWindows", {"seed": 1}),
        ("HyvRiflex", {"k": 3}),
        ("HyvEnhanceAVideo", {"weight": 10.0}),
        ("HyvEnhanceAVideo", {"start": 0.5}),
        ("HyvEnhanceAVideo", {"end": 0.5}),
        ("HyvSeamlessLoop", {"shift_latent_frames": 2}),
        ("HyvSlidingTileAttention", {"window_frames": 2}),
        ("HyvSlidingTileAttention", {"tile_width": 2}),
        ("HyvSlidingTileAttention", {"start": 0.5}),
        ("HyvSlidingTileAttention", {"end": 0.5}),
    ],
    ids=lambda value: value if isinstance(value, str) else ",".join(value),
)
def test_every_setting_changes_the_video(latent, kind, change):
    base = NODES[kind] | ({"overlap_frames": 8} if "blend" in change else {})
    assert not torch.equal(latent((kind, base | change)), latent((kind, base)))


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("HyvContextWindows", WINDOWS | {"window_frames": 29}),
        ("HyvRiflex", {"k": 4, "above_frames": 29}),
        ("HyvEnhanceAVideo", {"weight": -1.0}),
        ("HyvSeamlessLoop", {"shift_latent_frames": 0}),
        ("HyvSlidingTileAttention", {f"window_{axis}": 99 for axis in ("frames", "height", "width")}),
        ("HyvSlidingTileAttention", TILES | {"start": 0.5, "end": 0.5}),
    ],
)
def test_neutral_settings_are_bit_identical_to_none(latent, kind, settings):
    assert torch.equal(latent((kind, settings)), latent())


def test_the_order_of_nodes_is_irrelevant(studio):
    features = [(kind, NODES[kind]) for kind in ("HyvContextWindows", "HyvSeamlessLoop", "HyvEnhanceAVideo")]
    one, other = (studio.saved_latent(job_with(*order)) for order in (features, features[::-1]))
    assert torch.equal(one, other)


def test_windows_need_the_memory_of_one_window(studio):
    large = {"size.resolution.width": 640, "size.resolution.height": 640}
    plans = []
    for features in ((), (("HyvContextWindows", WINDOWS),)):
        job = job_with(*features, changes=large)
        plan = jobs.node("HyvPlan", model=job["sampler"]["inputs"]["model"], latent=["size", 0], memory_gb=80.0)
        kept = {name: content for name, content in job.items() if name not in ("sampler", "save", "prompt", "encoders")}
        (told,) = studio.run(kept | {"plan": plan})["plan"]["text"]
        plans.append(float(told.partition("predicted peak ")[2].split()[0]))
    assert plans[1] < plans[0]


# --- loops are decoded as loops ------------------------------------------------------------------------------


def images_of(studio, changes, batch=2):
    job = jobs.decoded(job_with(("HyvSeamlessLoop", NODES["HyvSeamlessLoop"])))
    job["save"] = jobs.node("SaveImage", images=["decode", 0], filename_prefix="image/loop")
    return studio.files(studio.run(jobs.changed(job, {"size.frames": 17, "size.batch_size": batch, **changes})))


def test_a_loop_has_four_frames_for_every_latent_frame_of_every_clip(studio):
    assert len(images_of(studio, {})) == 2 * 17
    assert len(images_of(studio, {"decode.loop": True})) == 2 * 20


def test_a_loop_is_streamed_to_a_file_as_it_is_decoded(studio, clip):
    job = jobs.decoded(job_with(("HyvSeamlessLoop", NODES["HyvSeamlessLoop"]), changes={"size.frames": 17}))
    settings = job.pop("decode")["inputs"] | {"loop": True}
    saving = {"fps": jobs.FPS, "crf": 16, "filename_prefix": "video/loop"}
    job["save"] = jobs.node("HyvDecodeVideo", **settings, **saving)
    (path,) = studio.files(studio.run(job))
    assert len(clip(path).frames) == 20


# --- what cannot work ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("features", "changes", "words"),
    [
        ([("HyvContextWindows", WINDOWS)] * 2, {}, ["went through HyVideo Context Windows already"]),
        ([("HyvContextWindows", WINDOWS | {"overlap_frames": 12})], {}, ["overlap_frames is 12", "window_frames, 9"]),
        ([("HyvContextWindows", WINDOWS | {"window_frames": 10})], {}, ["window_frames is 10", "Use 9 or 13"]),
        ([("HyvEnhanceAVideo", {"weight": 4.0, "start": 0.9, "end": 0.1})], {}, ["start is 0.9", "Lower start"]),
        ([("HyvSeamlessLoop", {"shift_latent_frames": 4})], {"size.frames": 13}, ["shift_latent_frames is 4", "Use 3"]),
    ],
    ids=["twice", "overlap", "window", "interval", "shift"],
)
def test_what_cannot_work_is_told(studio, features, changes, words):
    error = studio.failure(job_with(*features, changes=changes))
    assert all(word in error for word in words), error


@pytest.mark.parametrize("kind", ["HyvContextWindows", "HyvSeamlessLoop"])
def test_a_loop_with_a_given_image_is_refused_before_anything_is_loaded(studio, kind):
    settings = NODES[kind] | ({"schedule": "looped"} if kind == "HyvContextWindows" else {})
    picture = {
        "picture": jobs.node("EmptyImage", width=jobs.WIDTH_PX, height=jobs.HEIGHT_PX, batch_size=1, color=0x4080C0),
        "vae": jobs.node("HyvLoadVAE", vae=jobs.VAE, dtype="auto"),
    }
    given = {"vae": ["vae", 0], "image": ["picture", 0], "latent": ["size", 0]}
    pairs = [("HyvImageToVideo", given), (kind, settings)]
    for order in itertools.permutations(pairs):
        job = job_with(*order, changes={"model.kind": jobs.TOKEN_REPLACE}) | picture
        studio.release()
        before = studio.reads()["transformer"]
        error = studio.failure(job)
        assert "begins with a given image" in error
        # The job that shows that the server still works reads them; the failed one does not.
        assert studio.reads()["transformer"] == before + 1
