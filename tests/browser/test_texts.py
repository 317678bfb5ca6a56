"""HyVideo Plan tells its plan where the user looks for it: in the node."""

from __future__ import annotations

import pytest

from tools.pictures.screens import planned
from tools.workflows import api_format

pytestmark = [pytest.mark.browser, pytest.mark.server]


def test_the_plan_is_told_in_the_node_and_is_no_input(page, studio):
    with studio.server.client() as client:
        prompt = api_format(planned(), client.object_info())
    page.page.evaluate("(prompt) => app.loadApiJson(prompt, 'plan')", prompt)
    page.page.wait_for_function("() => app.graph.nodes.some(({ type }) => type === 'HyvPlan')")
    before = page.prompt()
    outputs = page.run()
    (number,) = page.node_ids("HyvPlan")
    (told,) = outputs[str(number)]["text"]
    assert "predicted peak" in told
    assert page.page.evaluate(FIELD, number) == told
    assert page.prompt() == before


FIELD = "(id) => app.graph.getNodeById(id).widgets.find(({ name }) => name === 'plan')?.value"
