"""Saving in every format from the nodes: what is shown, what other nodes get, and names that are none."""

from __future__ import annotations

import av
import jobs
import numpy as np
import pytest
from frontend_reader import embedded
from PIL import Image

COLOUR = (64, 128, 192)
WORKFLOW = {"nodes": [], "version": 0.4, "extra": {"text": "a { brace and 猫"}}
#: What the node shows itself; of all others a small mp4 in the temp folder.
SHOWN = {"H.264 mp4", "AV1 10-bit mp4", "VP9 webm"}


def saving(name=None, prefix="formats/clip", **options):
    """Five pictures of one colour, saved; without ``name`` as workflows from before there were formats."""
    inputs = {"images": ["picture", 0], "fps": 10.0, "crf": 12, "filename_prefix": prefix}
    if name is not None:
        inputs |= {"format": name, **{f"format.{key}": value for key, value in options.items()}}
    return {
        "picture": jobs.node("EmptyImage", width=64, height=48, batch_size=5, color=0x4080C0),
        "save": jobs.node("HyvSaveVideo", **inputs),
    }


def options_of(studio, node="HyvSaveVideo"):
    """The names of all formats with the defaults of their options."""
    (_, spec) = studio.client.object_info(node)[node]["input"]["optional"]["format"]
    return {
        option["key"]: {name: each[1]["default"] for name, each in option["inputs"].get("optional", {}).items()}
        for option in spec["options"]
    }


def test_every_format_is_saved_shown_and_read_by_native_nodes(studio):
    formats = options_of(studio)
    assert len(formats) == 10
    for name, options in formats.items():
        job = saving(name, **options)
        job["parts"] = jobs.node("GetVideoComponents", video=["save", 0])
        job["again"] = jobs.node("SaveImage", images=["parts", 0], filename_prefix="formats/again")
        outputs = studio.run(job, extra_data={"extra_pnginfo": {"workflow": WORKFLOW}})
        (shown,) = outputs["save"]["images"]
        assert outputs["save"]["animated"] == [True], name
        assert shown["type"] == ("output" if name in SHOWN else "temp"), name
        assert ("files" in outputs["save"]) == (name not in SHOWN), name
        (file,) = outputs["save"].get("files", [shown])
        path = studio.server.output / file["subfolder"] / file["filename"]
        carrier = path / "frame_00001.png" if path.is_dir() else path.with_suffix(".png") if name == "GIF" else path
        assert embedded(carrier)["workflow"] == WORKFLOW, name
        assert "HyvSaveVideo" in str(embedded(carrier)["prompt"]), name
        pictures = [np.asarray(Image.open(each).convert("RGB")) for each in studio.files(outputs, "again")]
        assert len(pictures) == 5, name
        assert np.abs(np.mean(pictures, axis=(0, 1, 2)) - COLOUR).max() <= 4, name


def test_a_workflow_from_before_there_were_formats_gives_h264(studio, clip):
    found = clip(studio.files(studio.run(saving(prefix="formats/old")))[0])
    assert (found.codec, found.fps, len(found.frames)) == ("h264", 10.0, 5)


def test_formats_and_audio_are_the_last_inputs(studio):
    for node in ("HyvSaveVideo", "HyvDecodeVideo"):
        order = studio.client.object_info(node)[node]["input_order"]
        assert [*order["required"], *order["optional"]][-2:] == ["format", "audio"]
    assert studio.client.object_info("HyvSaveVideo")["HyvSaveVideo"]["input_order"]["required"] == [
        "images",
        "fps",
        "crf",
        "filename_prefix",
    ]


def test_an_unknown_format_is_an_error_that_names_the_others(studio):
    message = studio.failure(saving("MPEG-7", prefix="formats/unknown"))
    assert "'MPEG-7'" in message
    assert "ProRes mov" in message


def test_sound_comes_from_an_audio_socket(studio):
    job = saving("ProRes mov", prefix="formats/sound", profile="422 LT")
    job["sound"] = jobs.node("EmptyAudio", duration=2.0, sample_rate=44100, channels=2)
    job["save"]["inputs"]["audio"] = ["sound", 0]
    outputs = studio.run(job)
    (file,) = outputs["save"]["files"]
    with av.open(str(studio.server.output / file["subfolder"] / file["filename"])) as container:
        (stream,) = container.streams.audio
        assert sum(frame.samples for frame in container.decode(stream)) == 22050
    assert "audio of 2.00 s for a video of 0.50 s: its end is cut" in studio.server.log.read_text("utf-8")


def test_a_latent_is_decoded_straight_into_another_format(studio):
    job = jobs.text_to_video()
    exact = {"format": "FFV1 lossless mov", "format.depth": "16 bit"}
    direct = {key: value for key, value in job["save"]["inputs"].items() if key != "images"} | exact
    job["decode"] = jobs.node("HyvDecodeVideo", **(job["decode"]["inputs"] | direct))
    del job["save"]
    (file,) = studio.run(job)["decode"]["files"]
    with av.open(str(studio.server.output / file["subfolder"] / file["filename"])) as container:
        frames = np.stack([frame.to_ndarray(format="rgb48le") for frame in container.decode(video=0)])
    # SaveImage cuts what is beyond 8 bits.
    beyond = frames / 257 - studio.images()
    assert beyond.min() > -0.01
    assert beyond.max() < 1.01


def test_a_stop_while_pictures_are_written_leaves_none(studio):
    job = saving("PNG sequence", prefix="formats_stopped/clip", depth="16 bit")
    job["picture"]["inputs"] |= {"width": 1024, "height": 1024, "batch_size": 60}
    prompt_id = studio.client.queue(job)
    for event in studio.client.follow(prompt_id, timeout_s=60):
        if event.type == "executing" and event.data["node"] == "save":
            break
    studio.client.interrupt()
    final = [event for event in studio.client.follow(prompt_id, timeout_s=60) if event.is_final][-1]
    assert final.type == "execution_interrupted"
    assert not list((studio.server.output / "formats_stopped").glob("*"))


@pytest.mark.parametrize(
    "prefix", ["猫 és 100% {b}", "with space/sub folder/x", "CON", "a.b.c", "-y", "%width%x%05d", "~"]
)
def test_names_that_are_unusual_are_names(studio, prefix):
    (file,) = studio.run(saving("GIF", prefix=f"named/{prefix}"))["save"]["files"]
    path = studio.server.output / file["subfolder"] / file["filename"]
    assert path.is_file()
    assert studio.server.output / "named" in path.parents


@pytest.mark.parametrize("prefix", ["../out", "a/../../out", "/etc/out", "..\\out", "x\0y", "n" * 300, "", "/", "a/"])
def test_names_outside_the_output_folder_are_refused(studio, prefix):
    job = saving("PNG sequence", prefix=prefix, depth="8 bit")
    before = set(studio.server.output.parent.glob("*"))
    if prefix == "a/":
        studio.run(job)
    else:
        assert "filename_prefix is" in studio.failure(job)
    assert set(studio.server.output.parent.glob("*")) == before
