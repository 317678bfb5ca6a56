"""What a client hears while a job runs."""

from __future__ import annotations

import json
import re
import struct
import uuid

import jobs
import pytest
import websocket

TEXT_EVENT = 3
STEPS = 5


@pytest.fixture(scope="module")
def heard(server):
    """Everything sent over the websocket during one job: (messages, texts by node)."""
    client_id = uuid.uuid4().hex
    address = server.url.replace("http", "ws")
    connection = websocket.create_connection(f"{address}/ws?clientId={client_id}", timeout=60, suppress_origin=True)
    job = jobs.text_to_video({"sampler.steps": STEPS, "sampler.seed": 4242})
    with server.client() as client:
        prompt_id = client.post("/prompt", {"prompt": job, "client_id": client_id})["prompt_id"]
    messages, texts = [], []
    while True:
        message = connection.recv()
        if isinstance(message, bytes):
            kind, length = struct.unpack(">II", message[:8])
            if kind == TEXT_EVENT:
                texts.append((message[8 : 8 + length].decode(), message[8 + length :].decode()))
            continue
        event = json.loads(message)
        messages.append(event)
        if event["type"] in ("execution_success", "execution_error") and event["data"]["prompt_id"] == prompt_id:
            break
    connection.close()
    assert messages[-1]["type"] == "execution_success"
    return messages, texts


def test_every_step_is_reported(heard):
    messages, _ = heard
    steps = [m["data"] for m in messages if m["type"] == "progress" and m["data"]["node"] == "sampler"]
    assert {step["max"] for step in steps} == {STEPS}
    values = [step["value"] for step in steps]
    # The host drops reports that follow each other too fast, never the first or the last.
    assert values == sorted(set(values))
    assert (values[0], values[-1]) == (1, STEPS)


def test_the_time_per_step_stands_beside_the_bar(heard):
    _, texts = heard
    lines = [text for node, text in texts if node == "sampler"]
    assert len(lines) == STEPS + 1
    for number, line in enumerate(lines[:-1], start=1):
        assert re.fullmatch(rf"step {number}/{STEPS} took \d+\.\d\d s · \d+ s left", line), line


@pytest.mark.parametrize(("node", "unit"), [("sampler", "step"), ("decode", "part")])
def test_what_stands_beside_the_bar_in_the_end_is_how_long_all_took(heard, server, node, unit):
    _, texts = heard
    last = [text for name, text in texts if name == node][-1]
    seconds = r"\d+\.\d\d s"
    assert re.fullmatch(rf"\d+ {unit}s in {seconds}: the first {seconds}, then {seconds} each", last), last
    assert last in server.log.read_text("utf-8", errors="replace")


def test_the_decoder_reports_its_parts(heard):
    messages, texts = heard
    parts = [m["data"] for m in messages if m["type"] == "progress" and m["data"]["node"] == "decode"]
    values = [part["value"] for part in parts]
    assert values == sorted(set(values))
    assert values[-1] == parts[-1]["max"] > 1
    assert [text for node, text in texts if node == "decode"]


def test_the_finished_video_is_shown_in_the_node(heard):
    messages, _ = heard
    (shown,) = [m["data"] for m in messages if m["type"] == "executed" and m["data"]["node"] == "save"]
    (file,) = shown["output"]["images"]
    assert file["filename"].endswith(".mp4")
    assert shown["output"]["animated"] == [True]
