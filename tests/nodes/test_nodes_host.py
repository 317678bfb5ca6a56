"""The pack's books against ComfyUI's real memory manager, on a device that only counts (see ``hosted_blocks.py``)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tools import comfyui

SCRIPT = Path(__file__).parent / "hosted_blocks.py"


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    host = comfyui.locate()
    assert host is not None
    done = subprocess.run([sys.executable, str(SCRIPT), str(host)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


ALL = {"resident": 10, "waiting": 0, "told": 11}


def test_with_room_everything_is_on_the_device_and_read_once(found):
    assert found["with room for all"] == ALL
    assert found["loaded twice, read"] == [ALL, 1]


def test_with_less_room_blocks_wait_and_the_size_tells_the_truth(found):
    # Seven blocks of room: the head, two buffers for streaming, four residents.
    assert found["with room for seven"] == {"resident": 4, "waiting": 6, "told": 5}
    # Six of room beside the activations.
    assert found["with room again"]["resident"] == 3


def test_the_host_gets_the_room_it_asks_for_from_blocks(found):
    state, free = found["after the host asked for room"]
    assert free >= 39 * 4_000_000
    assert state["told"] <= 1


def test_the_host_gets_everything_when_it_asks_for_it(found):
    assert found["after the host asked for everything"] == [0, True, 0]
    assert found["after that"] == [ALL, 2]


def test_one_model_a_role_and_roles_beside_each_other(found):
    state, used, registered = found["another model of the role"]
    assert (state, used, registered) == (ALL, 11, 1)
    assert found["two roles"] == [ALL, ALL, 22]
    assert found["unloaded"] == [0, True, True]


def test_too_little_room_is_an_error_that_leaves_nothing(found):
    kind, message, used = found["too little"]
    assert kind == "DoesNotFitError"
    assert "Toy takes at least 0.01 GB" in message
    assert used == 0
    assert found["after too little"] == ALL


def test_a_loaded_model_that_no_longer_fits_leaves_nothing_behind_the_hosts_back(found):
    assert found["before it stopped fitting"]["resident"] > 0
    assert found["no longer fits"] == ["DoesNotFitError", 0, 12]


def test_a_device_that_is_fuller_than_it_said_gets_half_the_blocks(found):
    assert found["fuller than it said"] == {"resident": 5, "waiting": 5, "told": 6}
