"""Nodes that give a text show it where the user looks for it: in the node."""

from __future__ import annotations

import json
from typing import Any

import pytest
from test_old_workflows import make_small, read

from tools.pictures.screens import planned
from tools.workflow_graphs import Node
from tools.workflows import api_format

pytestmark = [pytest.mark.browser, pytest.mark.server]

SHOWN = "(id) => app.graph.getNodeById(id).widgets.find(({ name }) => name === 'hyvideo_text')?.value"


def open_api(page: Any, studio: Any, graph: dict[str, Node], kind: str) -> int:
    """Open a graph; the number of its node of a kind."""
    with studio.server.client() as client:
        prompt = api_format(graph, client.object_info())
    page.page.evaluate("(prompt) => app.loadApiJson(prompt, 'texts')", prompt)
    page.page.wait_for_function("(kind) => app.graph.nodes.some(({ type }) => type === kind)", arg=kind)
    (number,) = page.node_ids(kind)
    return number


def test_the_plan_is_told_in_the_node_and_is_no_input(page, studio):
    number = open_api(page, studio, planned(), "HyvPlan")
    before = page.prompt()
    outputs = page.run()
    (told,) = outputs[str(number)]["text"]
    assert "predicted peak" in told
    assert page.page.evaluate(SHOWN, number) == told
    assert page.prompt() == before


def test_without_a_language_model_the_request_for_one_is_shown(page, studio):
    idea = "A heron lands on a lake at dawn."
    number = open_api(page, studio, {"rewrite": Node("HyvRewritePrompt", {"prompt": idea})}, "HyvRewritePrompt")
    outputs = page.run()
    (request,) = outputs[str(number)]["text"]
    assert idea in request
    assert len(request) > 2 * len(idea)
    assert page.page.evaluate(SHOWN, number) == request
    page.look_at(number)


@pytest.mark.slow
def test_an_old_node_tells_what_it_does_otherwise_for_as_long_as_it_does(page):
    page.open(read("t2v"))
    make_small(page)
    (sampler,) = page.node_ids("HyVideoSampler")
    saved = json.dumps(page.workflow()["nodes"], sort_keys=True)
    page.set(sampler, {"scheduler": "SDE-DPMSolverMultistepScheduler"})
    page.run()
    assert "has no counterpart" in page.page.evaluate(SHOWN, sampler)
    page.look_at(sampler)
    page.set(sampler, {"scheduler": "FlowMatchDiscreteScheduler"})
    assert "has no counterpart" in page.page.evaluate(SHOWN, sampler)
    page.run()
    assert page.page.evaluate(SHOWN, sampler) == ""
    assert [node["size"] for node in page.workflow()["nodes"]] == [node["size"] for node in json.loads(saved)]
