"""The client against the real server: complete events, readable errors, no run lost."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tools.client import ComfyClient, ComfyError, ExecutionFailed, PromptRejected
from tools.server import Server, free_port

pytestmark = pytest.mark.server


def image_workflow(width: int = 32, color: int = 0) -> dict:
    return {
        "1": {
            "class_type": "EmptyImage",
            "inputs": {"width": width, "height": 32, "batch_size": 1, "color": color},
            "_meta": {"title": "A blank image"},
        },
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "client"}},
    }


def test_a_finished_run_can_be_read_back(client: ComfyClient) -> None:
    record = client.run(image_workflow(color=1), timeout_s=60)
    (image,) = record["outputs"]["2"]["images"]
    assert client.view(image).startswith(b"\x89PNG")


def test_no_event_is_lost_when_the_run_ends_before_it_is_followed(client: ComfyClient) -> None:
    prompt_id = client.queue(image_workflow(color=2))
    while client.history(prompt_id) is None:
        time.sleep(0.01)
    types = [event.type for event in client.follow(prompt_id, timeout_s=60)]
    assert {"execution_start", "executing", "executed"} <= set(types)
    assert types[-1] == "execution_success"


def test_runs_followed_in_another_order_keep_their_events(client: ComfyClient) -> None:
    first, second = (client.queue(image_workflow(color=color)) for color in (3, 4))
    for prompt_id in (second, first):
        events = list(client.follow(prompt_id, timeout_s=60))
        assert [event.data["node"] for event in events if event.type == "executed"] == ["2"]
        assert all(event.data.get("prompt_id", prompt_id) == prompt_id for event in events)


def test_a_dropped_socket_loses_no_run(client: ComfyClient) -> None:
    prompt_id = client.queue(image_workflow(color=5))
    client.close()
    assert list(client.follow(prompt_id, timeout_s=60))[-1].type == "execution_success"


def test_a_rejected_workflow_names_node_title_field_and_reason(client: ComfyClient) -> None:
    with pytest.raises(PromptRejected, match=r"node 1, A blank image \(EmptyImage\).*width") as caught:
        client.queue(image_workflow(width=-5))
    assert "smaller than min" in str(caught.value)
    assert set(caught.value.node_errors) == {"1"}


def test_an_unknown_node_class_is_named(client: ComfyClient) -> None:
    with pytest.raises(PromptRejected, match="NoSuchNode"):
        client.queue({"1": {"class_type": "NoSuchNode", "inputs": {}}})


def test_a_failing_node_is_named_and_the_server_lives_on(client: ComfyClient) -> None:
    no_video = client.upload(Path(__file__))
    broken = {
        "1": {"class_type": "LoadVideo", "inputs": {"file": no_video}},
        "2": {"class_type": "GetVideoComponents", "inputs": {"video": ["1", 0]}},
        "3": {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}},
    }
    with pytest.raises(ExecutionFailed, match=r"node 2 \(GetVideoComponents\) failed"):
        client.run(broken, timeout_s=60)
    client.run(image_workflow(color=6), timeout_s=60)


def test_an_uploaded_file_comes_back_unchanged(client: ComfyClient, tmp_path: Path) -> None:
    (tmp_path / "frame ä.bin").write_bytes(bytes(range(256)))
    name = client.upload(tmp_path / "frame ä.bin")
    assert client.view({"filename": name, "subfolder": "", "type": "input"}) == bytes(range(256))


def test_a_run_that_takes_too_long_is_told(client: ComfyClient) -> None:
    with pytest.raises(ComfyError, match="did not end within"):
        list(client.follow("00000000-0000-4000-8000-000000000000", timeout_s=0.1))


def test_a_server_that_is_gone_is_told_by_its_address() -> None:
    gone = ComfyClient(f"http://127.0.0.1:{free_port()}")
    with pytest.raises(ComfyError, match=gone.base_url):
        gone.system_stats()
    with pytest.raises(ComfyError, match=gone.base_url):
        gone.queue(image_workflow())


def test_the_pack_is_loaded_without_a_failed_import(server: Server) -> None:
    assert "IMPORT FAILED" not in server.log.read_text(encoding="utf-8", errors="replace")
