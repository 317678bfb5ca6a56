"""What an artist reads in the interface, and what registries read in the source."""

from __future__ import annotations

import ast

import pytest

from tools.paths import ROOT

SOURCES = sorted((ROOT / "nodes").glob("*.py"))
#: Types of the host's own.
HOSTS = {"CONDITIONING", "LATENT", "IMAGE", "VIDEO", "STRING", "SIGMAS"}
NODE_IDS = {
    "HyvAPG",
    "HyvBatchPrompts",
    "HyvBlendPrompts",
    "HyvCfgZeroStar",
    "HyvContextWindows",
    "HyvDecode",
    "HyvDecodeVideo",
    "HyvEasyCache",
    "HyvEmptyLatent",
    "HyvEncode",
    "HyvEncodeImagePrompt",
    "HyvEncodePrompt",
    "HyvEnhanceAVideo",
    "HyvFirstBlockCache",
    "HyvFitImage",
    "HyvFlowEdit",
    "HyvFreSca",
    "HyvImageToVideo",
    "HyvInvert",
    "HyvKeyframes",
    "HyvLoadModel",
    "HyvLoadPrompt",
    "HyvLoadTextEncoders",
    "HyvLoadVAE",
    "HyvLora",
    "HyvMemory",
    "HyvPlan",
    "HyvPromptSchedule",
    "HyvRFInversion",
    "HyvRewritePrompt",
    "HyvRiflex",
    "HyvSLG",
    "HyvSTG",
    "HyvSampler",
    "HyvSavePrompt",
    "HyvSaveVideo",
    "HyvSchedule",
    "HyvSeamlessLoop",
    "HyvSlidingTileAttention",
    "HyvTeaCache",
    "HyvTeaCacheCalibration",
}


@pytest.fixture(scope="module")
def info(server):
    """The schemas of the pack's nodes as the host reports them."""
    with server.client() as client:
        everything = client.object_info()
    found = {name: node for name, node in everything.items() if node["category"].startswith("HyVideo Studio")}
    assert found, "the pack did not load; the server's log says why"
    return found


def inputs_of(node):
    """Every input with its options, those behind a dynamic choice included."""
    for group in ("required", "optional"):
        for name, spec in node["input"].get(group, {}).items():
            options = spec[1] if len(spec) > 1 else {}
            yield name, spec[0], options
            for option in options.get("options", []) if spec[0] == "COMFY_DYNAMICCOMBO_V3" else []:
                for _, *inner in [(None, *found) for found in inputs_of({"input": option["inputs"]})]:
                    yield f"{name}.{inner[0]}", inner[1], inner[2]


def test_all_nodes_are_there_and_begin_alike(info):
    assert set(info) >= NODE_IDS
    assert all(name.startswith("Hyv") for name in info)


def test_every_node_explains_itself(info):
    for name, node in info.items():
        assert node["display_name"].startswith("HyVideo "), name
        assert node["description"].endswith("."), name
        assert node["search_aliases"], name
        assert node["category"].count("/") == 1, name
        assert not node["experimental"], name


def test_every_input_and_output_has_a_tooltip(info):
    for name, node in info.items():
        bare = [field for field, _, options in inputs_of(node) if not (options.get("tooltip") or "").strip()]
        assert not bare, f"{name}: {bare}"
        assert len(node["output_tooltips"]) == len(node["output"]), name
        assert all(node["output_tooltips"]), name


def test_the_prompts_tooltip_tells_the_room_that_errors_tell(info):
    # The same numbers are in the errors of too long prompts.
    tooltip = info["HyvEncodePrompt"]["input"]["required"]["prompt"][1]["tooltip"]
    assert "255 tokens" in tooltip
    assert "314" in tooltip


def test_every_number_has_a_range_with_its_default_inside(info):
    for name, node in info.items():
        for field, kind, options in inputs_of(node):
            if kind in ("INT", "FLOAT"):
                assert options["min"] <= options["default"] <= options["max"], f"{name}.{field}"
            if kind == "FLOAT":
                assert options["step"], f"{name}.{field}"


def test_sockets_that_comfyui_knows_are_its_own(info):
    foreign = {kind for node in info.values() for kind in node["output"]} - HOSTS
    assert foreign == {"HYV_MODEL", "HYV_TEXT_ENCODER", "HYV_VAE"}


def node_classes():
    for source in SOURCES:
        for item in ast.walk(ast.parse(source.read_text("utf-8"))):
            if isinstance(item, ast.ClassDef) and any(
                isinstance(part, ast.FunctionDef) and part.name == "define_schema" for part in item.body
            ):
                yield item


def test_scanners_that_only_read_the_source_find_every_node(info):
    found = set()
    for item in node_classes():
        assert "io.ComfyNode" in {ast.unparse(base) for base in item.bases}, item.name
        schemas = [
            call for call in ast.walk(item) if isinstance(call, ast.Call) and ast.unparse(call.func) == "io.Schema"
        ]
        (node_id,) = [keyword.value for keyword in schemas[0].keywords if keyword.arg == "node_id"]
        assert isinstance(node_id, ast.Constant), item.name
        found.add(node_id.value)
    assert found == set(info)
