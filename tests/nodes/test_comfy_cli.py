"""Each template, converted without a browser by comfy-cli, is the file that programs queue."""

from __future__ import annotations

import json

import pytest
from comfy_cli.workflow_to_api import convert_ui_to_api

from tools.paths import WORKFLOWS

NAMES = sorted(path.stem for path in WORKFLOWS.glob("*.json"))


@pytest.fixture(scope="module")
def object_info(server):
    with server.client() as client:
        return client.object_info()


@pytest.mark.parametrize("name", NAMES)
def test_a_template_becomes_its_api_file(object_info, name):
    template = json.loads((WORKFLOWS.parent / f"{name}.json").read_text("utf-8"))
    assert convert_ui_to_api(template, object_info) == json.loads((WORKFLOWS / f"{name}.json").read_text("utf-8"))
