"""Previews of a run as clients get them: with the pack's panel, without it, and those that did not queue the job."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import struct
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import jobs
import pytest
import torch
import websocket
from PIL import Image
from safetensors.torch import load_file, save

from hyvideo_core.preview.taehv import TaehvDecoder
from hyvideo_core.preview.taehv_file import name_in_file
from tools.client import ComfyError
from tools.paths import ROOT, TOY_MODELS

Json = dict[str, Any]
STILL, TEXT = 1, 3
STEPS = 4
#: What is told of the time of steps, in seconds.
TIMES = ("last_s", "first_s", "each_s", "left_s", "total_s")
#: What the server may still send a client when its job has ended.
ENDS = ("execution_success", "execution_error", "execution_interrupted")


@dataclass
class Heard:
    """All that a client was sent: events, and the payloads of binary messages by their type."""

    events: list[Json] = field(default_factory=list)
    binary: list[tuple[int, bytes]] = field(default_factory=list)

    def of(self, kind: str) -> list[Json]:
        return [event["data"] for event in self.events if event["type"] == kind]

    def stills(self) -> list[Image.Image]:
        return [Image.open(io.BytesIO(payload[4:])) for kind, payload in self.binary if kind == STILL]

    @property
    def end(self) -> str:
        return str(self.events[-1]["type"])


class Listener:
    """A client of the server by its websocket."""

    def __init__(self, server: Any) -> None:
        self.server, self.id = server, uuid.uuid4().hex
        address = server.url.replace("http", "ws")
        self.socket = websocket.create_connection(f"{address}/ws?clientId={self.id}", timeout=60, suppress_origin=True)
        self.socket.recv()

    def choose(self, method: str) -> None:
        """Say that this client has the panel, and what its user chose."""
        with self.server.client() as client:
            client.post("/hyvideo/preview", {"client_id": self.id, "method": method})

    def run(self, job: Json, during: Callable[[Json], None] = lambda event: None, **more: Any) -> Heard:
        """Queue a job and hear it to its end."""
        with self.server.client() as client:
            prompt_id = client.post("/prompt", {"prompt": job, "client_id": self.id, **more})["prompt_id"]
        heard = Heard()
        while True:
            message = self.socket.recv()
            if isinstance(message, bytes):
                heard.binary.append((struct.unpack(">I", message[:4])[0], message[4:]))
                continue
            event = json.loads(message)
            heard.events.append(event)
            during(event)
            if event["type"] in ENDS and event["data"]["prompt_id"] == prompt_id:
                return heard

    def waiting(self) -> Heard:
        """What came without being asked for, until nothing comes any more."""
        heard = Heard()
        self.socket.settimeout(0.5)
        try:
            while True:
                message = self.socket.recv()
                if isinstance(message, bytes):
                    heard.binary.append((struct.unpack(">I", message[:4])[0], message[4:]))
                else:
                    heard.events.append(json.loads(message))
        except websocket.WebSocketTimeoutException:
            return heard


@pytest.fixture
def listener(server) -> Iterator[Callable[[], Listener]]:
    """Connects clients."""
    made: list[Listener] = []

    def connect() -> Listener:
        made.append(Listener(server))
        return made[-1]

    yield connect
    for each in made:
        each.socket.close()


@pytest.fixture
def with_panel(listener) -> Listener:
    """A client that has the panel, with latent-to-RGB."""
    client = listener()
    client.choose("latent2rgb")
    return client


def job(studio, **changes: Any) -> Json:
    """A job that no other has been."""
    seed = {"sampler.seed": next(studio.unused_seeds), "sampler.steps": STEPS}
    return jobs.text_to_latent(seed | {"size.frames": 17} | changes)


def picture(preview: Json) -> Image.Image:
    head, _, data = preview["image"].partition(",")
    assert head == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


def tiny_decoder() -> bytes:
    torch.manual_seed(0)
    return save({name_in_file(name): tensor for name, tensor in TaehvDecoder().state_dict().items()})


def test_the_whole_clip_comes_as_a_sheet_of_frames(studio, with_panel):
    heard = with_panel.run(job(studio))
    first, *_ = heard.of("hyvideo.preview")
    assert first["node"] == "sampler"
    assert first["prompt_id"] == heard.events[-1]["data"]["prompt_id"]
    assert (first["frames"], first["fps"]) == (5, 6.0)
    assert (first["width"], first["height"]) == (jobs.WIDTH_PX // 8, jobs.HEIGHT_PX // 8)
    sheet = picture(first)
    rows = -(-first["frames"] // first["columns"])
    assert sheet.size == (first["columns"] * first["cell_width"], rows * first["cell_height"])


def test_the_panel_tells_steps_times_plan_peak_and_method(studio, with_panel):
    told = with_panel.run(job(studio)).of("hyvideo.progress")
    assert [each["state"] for each in told] == ["running"] * (STEPS + 1) + ["finished"]
    assert [each["steps"]["done"] for each in told] == [*range(STEPS + 1), STEPS]
    assert told[0]["steps"] == {"done": 0, "total": STEPS, "made": 0, **dict.fromkeys(TIMES)}
    for number, each in enumerate(told[1:-1], start=1):
        steps = each["steps"]
        assert (steps["made"], steps["total"], steps["total_s"]) == (number, STEPS, None)
        assert steps["last_s"] > 0
        assert (steps["left_s"] > 0) == (number < STEPS)
        assert each["sampling"]["resident_blocks"] == each["sampling"]["blocks"]
    last = told[-1]
    steps = last["steps"]
    assert steps["first_s"] == told[1]["steps"]["last_s"]
    assert steps["total_s"] == pytest.approx(steps["first_s"] + (STEPS - 1) * steps["each_s"])
    assert (last["device"], last["measured_peak_bytes"]) == ("cpu", None)
    assert (last["preview"]["method"], last["preview"]["frames"]) == ("latent-to-RGB", 5)
    assert 1 <= last["preview"]["step"] <= STEPS


def test_programs_are_told_of_each_field(studio, with_panel):
    """``docs/api.md`` has a table of the fields of progress, and names those of a preview."""
    heard = with_panel.run(job(studio))
    text = (ROOT / "docs" / "api.md").read_text("utf-8")
    rows = re.findall(r"^\| (.+?) \|", text.split("| Field |")[1].split("\n\n")[0], re.MULTILINE)
    documented = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert documented == heard.of("hyvideo.progress")[-1].keys()
    (paragraph,) = re.findall(r"^`hyvideo\.preview` has .+?\n\n", text, re.MULTILINE | re.DOTALL)
    assert heard.of("hyvideo.preview")[-1].keys() <= set(re.findall(r"`(\w+)`", paragraph))


def test_the_log_has_the_numbers_of_the_panel(studio, with_panel):
    before = len(studio.server.log.read_text("utf-8", errors="replace"))
    last = with_panel.run(job(studio)).of("hyvideo.progress")[-1]
    said = studio.server.log.read_text("utf-8", errors="replace")[before:]
    steps, plan = last["steps"], last["sampling"]
    each = f"the first {steps['first_s']:.2f} s, then {steps['each_s']:.2f} s each"
    assert f"sampling: {STEPS} steps in {steps['total_s']:.2f} s: {each}" in said
    room = f"{plan['limit_bytes'] / 1e9:.2f} GB {'memory in all' if plan['is_all_memory'] else 'free'}"
    assert f"predicted peak {plan['peak_bytes'] / 1e9:.2f} GB of {room}" in said
    assert f"all {plan['blocks']} blocks on the device" in said


def test_the_panel_tells_the_plan_in_the_fields_of_the_plan_of_a_job(studio, with_panel):
    planned = studio.client.post("/hyvideo/plan", {"prompt": (queued := job(studio))})["sampling"]
    told = with_panel.run(queued).of("hyvideo.progress")[0]["sampling"]
    assert planned.keys() - told.keys() == {"fits", "text"}
    assert not told.keys() - planned.keys()


def test_the_panel_tells_what_a_cache_skips_while_it_does(studio, with_panel):
    cached = job(studio)
    cached["cache"] = jobs.node("HyvTeaCache", model=["model", 0], threshold=10.0)
    cached["sampler"]["inputs"]["model"] = ["cache", 0]
    told = with_panel.run(cached).of("hyvideo.progress")
    assert told[0]["caches"] == []
    caches = [cache for each in told for cache in each["caches"]]
    assert {cache["name"] for cache in caches} == {"TeaCache"}
    branches = [branch for cache in caches for branch in cache["branches"]]
    assert {branch["name"] for branch in branches} == {"positive"}
    assert [(each["skipped"], each["steps"]) for each in branches] == [(0, 1), (1, 2), (2, 3), (2, 4), (2, 4)]
    assert caches[0]["saved_share"] == 0
    assert caches[-1]["saved_share"] == 0.5


def test_previews_change_nothing(studio, with_panel):
    expected = studio.latent({"sampler.steps": STEPS, "sampler.seed": 5})
    studio.release()
    heard = with_panel.run(jobs.text_to_latent({"sampler.steps": STEPS, "sampler.seed": 5}))
    assert heard.of("hyvideo.preview")
    (saved,) = [data for data in heard.of("executed") if data["node"] == "save"]
    assert torch.equal(studio.saved_latent(jobs.text_to_latent({"sampler.steps": STEPS, "sampler.seed": 5})), expected)
    assert saved["output"]["latents"]


def test_only_the_client_that_queued_gets_previews(studio, with_panel, listener):
    other = listener()
    other.choose("latent2rgb")
    assert with_panel.run(job(studio)).of("hyvideo.preview")
    heard = other.waiting()
    assert not heard.of("hyvideo.preview")
    assert not heard.of("hyvideo.progress")
    assert not heard.binary
    listener().run(job(studio), extra_data={"preview_method": "latent2rgb"})
    assert not other.waiting().binary


def test_a_client_with_the_panel_is_shown_nothing_twice(studio, with_panel):
    heard = with_panel.run(job(studio), extra_data={"preview_method": "latent2rgb"})
    assert heard.of("hyvideo.preview")
    assert not heard.stills()
    assert not [payload for kind, payload in heard.binary if kind == TEXT and b"step" in payload]
    assert heard.of("progress")


def test_a_client_without_the_panel_gets_the_hosts_own_previews_if_it_asks(studio, listener):
    heard = listener().run(job(studio), extra_data={"preview_method": "latent2rgb"})
    assert not heard.of("hyvideo.preview")
    assert not heard.of("hyvideo.progress")
    stills = heard.stills()
    assert 1 <= len(stills) <= STEPS
    # The host makes them as large as its setting says.
    assert max(stills[0].size) == 512
    assert [payload for kind, payload in heard.binary if kind == TEXT and b"step" in payload]


def test_a_client_without_the_panel_gets_none_unasked(studio, listener):
    heard = listener().run(job(studio))
    assert not heard.stills()
    assert not heard.of("hyvideo.preview")


def test_previews_may_be_off_and_the_progress_stays(studio, listener):
    client = listener()
    client.choose("off")
    heard = client.run(job(studio))
    assert not heard.of("hyvideo.preview")
    assert [each["preview"] for each in heard.of("hyvideo.progress")] == [None] * (STEPS + 2)


@pytest.mark.parametrize("method", ["auto", "taehv"])
def test_taehv_is_made_ready_where_its_file_is_there(studio, listener, place, method):
    place("vae_approx/taehv.safetensors", tiny_decoder())
    client = listener()
    client.choose(method)
    told = client.run(job(studio)).of("hyvideo.progress")
    # Steps as short as these do not pay for it; when they do is for the tests of the core.
    assert told[0]["awaited"] == {"method": "TAEHV", "share": 0.01}
    assert told[-1]["remarks"] == []


def test_latent_to_rgb_asks_for_no_file(studio, with_panel, place):
    place("vae_approx/taehv.safetensors", b"<html>not found</html>")
    assert "TAEHV" not in str(with_panel.run(job(studio)).of("hyvideo.progress"))


def test_a_missing_taehv_is_named_where_it_was_chosen(studio, listener):
    client = listener()
    client.choose("taehv")
    heard = client.run(job(studio))
    assert heard.end == "execution_success"
    assert heard.of("hyvideo.preview")
    assert heard.of("hyvideo.progress")[-1]["remarks"] == [
        {
            "code": "taehv_missing",
            "text": "TAEHV is left out: taehv.safetensors is not in models/vae_approx",
            "file": "taehv.safetensors",
            "folder": "models/vae_approx",
        }
    ]


def test_a_broken_taehv_is_named_once_and_the_quick_previews_go_on(studio, listener, place):
    place("vae_approx/taehv.safetensors", b"<html>not found</html>")
    before = studio.server.log.read_text("utf-8", errors="replace")
    client = listener()
    client.choose("auto")
    heard = client.run(job(studio))
    assert heard.end == "execution_success"
    assert heard.of("hyvideo.preview")[0]["frames"] == 5
    said = studio.server.log.read_text("utf-8", errors="replace")[len(before) :]
    assert said.count("taehv.safetensors in models/vae_approx cannot be used") == 1
    (remark,) = heard.of("hyvideo.progress")[-1]["remarks"]
    assert (remark["code"], remark["file"]) == ("taehv_unusable", "taehv.safetensors")
    assert remark["text"].endswith(f"taehv.safetensors in models/vae_approx cannot be used: {remark['error']}")


def test_a_taehv_that_may_not_be_read_is_told_without_the_servers_folders(studio, listener, place):
    path = place("vae_approx/taehv.safetensors", tiny_decoder())
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read every file")
    client = listener()
    client.choose("auto")
    told = client.run(job(studio)).of("hyvideo.progress")
    (remark,) = told[-1]["remarks"]
    assert (remark["code"], remark["error"]) == ("taehv_unusable", "taehv.safetensors: Permission denied")
    assert str(studio.server.base) not in json.dumps(told)


def test_a_stopped_run_says_so_in_the_panel(studio, with_panel):
    def stop(event: Json) -> None:
        if event["type"] == "hyvideo.progress" and event["data"]["steps"]["done"] == 2:
            studio.client.interrupt()

    heard = with_panel.run(job(studio, **{"sampler.steps": 1000}), during=stop)
    assert heard.end == "execution_interrupted"
    last = heard.of("hyvideo.progress")[-1]
    assert (last["state"], last["error"]) == ("stopped", None)
    assert 2 <= last["steps"]["done"] < 1000
    assert last["steps"]["total_s"] is None
    studio.assert_works()


def test_a_failed_run_says_why_in_the_panel(studio, with_panel, place):
    tensors = load_file(TOY_MODELS / "diffusion_models" / jobs.MODEL)
    tensors["double_blocks.0.img_mod.linear.bias"][0] = float("nan")
    place("diffusion_models/nan.safetensors", tensors)
    heard = with_panel.run(job(studio, **{"model.model": "nan.safetensors"}))
    assert heard.end == "execution_error"
    last = heard.of("hyvideo.progress")[-1]
    assert (last["state"], last["steps"]["done"]) == ("failed", 0)
    assert "NaN" in last["error"]
    assert heard.events[-1]["data"]["exception_message"].startswith(last["error"])


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"client_id": "nobody", "method": "auto"}', "No client nobody listens here."),
        (b'{"method": "auto"}', "client_id and method were expected"),
        (b"[]", "client_id and method were expected"),
        (b"\xff\xfe", "is not JSON"),
        (b"[" * 4000, "is not JSON"),
        (b" " * 4097, "more than 4096 bytes"),
    ],
)
def test_a_choice_that_makes_no_sense_is_refused(studio, body, reason):
    with pytest.raises(ComfyError) as caught:
        studio.client.request("/hyvideo/preview", body, {"Content-Type": "application/json"})
    assert caught.value.status == 400
    assert reason in str(caught.value.body)


def test_an_unknown_method_is_refused(studio, listener):
    client = listener()
    with pytest.raises(ComfyError) as caught:
        client.choose("sharp")
    assert "must be one of auto, latent2rgb, taehv, off" in str(caught.value.body)


def test_edits_and_inversions_are_watched_too(studio, with_panel):
    video = jobs.video_to_latent()
    edit = {name: video[name] for name in video if name not in ("sampler", "size")}
    edit["sampler"] = jobs.node(
        "HyvFlowEdit", model=["model", 0], source=["prompt", 0], target=["prompt", 0], latent=["encode", 0], steps=3,
        shift=7.0, n_max=2, n_min=0, n_avg=1, source_guidance=6.0, target_guidance=12.0, seed=next(studio.unused_seeds),
    )  # fmt: skip
    invert = edit | {
        "sampler": jobs.node(
            "HyvInvert", model=["model", 0], prompt=["prompt", 1], latent=["encode", 0], steps=3, shift=7.0, gamma=0.5,
            seed=next(studio.unused_seeds),
        )
    }  # fmt: skip
    for each in (edit, invert):
        heard = with_panel.run(each)
        assert heard.end == "execution_success"
        assert heard.of("hyvideo.preview")
        assert heard.of("hyvideo.progress")[-1]["state"] == "finished"
