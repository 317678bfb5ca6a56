"""The English texts of the interface, ``locales/en``, from what the nodes say of themselves in the running host.

The host hands ``locales/<language>`` to the browser, which shows these names and tooltips in that language. English is
in the nodes already; its files are what other languages are translated from, and a test holds those to the same keys.

Errors stay English in every language: they are what users search for and report, and the server that raises them does
not know the language of the browser. The Chinese pages quote them and say in Chinese what they mean. Names of
ComfyUI's own things follow its own Chinese: Latent, 移位 (shift), 降噪 (denoise), 遮罩 (mask), 引导 (guidance).

Help pages are written by hand: ``web/docs/<node>.md``, which the browser shows where there is none in its language,
and the Chinese ``web/docs/<node>/zh.md``. It looks for the pictures of both from ``web/docs``. English therefore is not
``web/docs/<node>/en.md``: that file's pictures would be missing where a repository is read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tools.paths import ROOT

FOLDER = ROOT / "locales"
PAGES = ROOT / "web" / "docs"
NODES, CATEGORIES = "nodeDefs.json", "main.json"
MENU = "HyVideo Studio"
DYNAMIC = "COMFY_DYNAMICCOMBO_V3"
#: Parts of menu paths that the browser names in its own languages. They are one list for all packs: ours would replace
#: what other packs show.
OF_THE_BROWSER = {"guidance", "latent", "model", "text", "video"}

Json = dict[str, Any]


def ours(object_info: Json) -> Json:
    """The pack's nodes, but for those that are there for old workflows only."""
    return {
        name: node
        for name, node in object_info.items()
        if node["category"].split("/")[0] == MENU and not node.get("deprecated")
    }


def render(object_info: Json) -> dict[Path, str]:
    """The English files with their contents."""
    nodes = ours(object_info)
    parts = dict.fromkeys(part for node in nodes.values() for part in node["category"].split("/"))
    categories = {part: part for part in parts if part not in OF_THE_BROWSER}
    return {
        FOLDER / "en" / NODES: text({name: _node(node) for name, node in sorted(nodes.items())}),
        FOLDER / "en" / CATEGORIES: text({"nodeCategories": categories}),
    }


def page(node: str, language: str) -> Path:
    """Where a node's help is."""
    return PAGES / f"{node}.md" if language == "en" else PAGES / node / f"{language}.md"


def text(content: Json) -> str:
    """As the files are written."""
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def inputs_of(inputs: Json, prefix: str = "") -> Iterator[tuple[str, str, Json]]:
    """Name, type and options of each input; those behind a choice, of all that may be chosen, as ``choice.input``."""
    for group in ("required", "optional"):
        for name, (kind, options, *_) in ((n, [*spec, {}]) for n, spec in inputs.get(group, {}).items()):
            yield prefix + name, kind, options
            for option in options["options"] if kind == DYNAMIC else []:
                yield from inputs_of(option["inputs"], f"{prefix}{name}.")


def key(name: str) -> str:
    """An input's name as the browser looks it up."""
    return name.replace(".", "_")


def _node(node: Json) -> Json:
    tooltips: dict[str, list[str]] = {}
    for name, _, options in inputs_of(node["input"]):
        told = tooltips.setdefault(name, [])
        if options["tooltip"] not in told:
            told.append(options["tooltip"])
    outputs = zip(node["output_name"], node["output_tooltips"], strict=True)
    return {
        "display_name": node["display_name"],
        "description": node["description"],
        # The browser has one text for inputs of one name behind different choices.
        "inputs": {
            key(name): {"name": name.rsplit(".", 1)[-1], "tooltip": " / ".join(told)} for name, told in tooltips.items()
        },
        "outputs": {
            str(place): {"name": name, "tooltip": tooltip or ""} for place, (name, tooltip) in enumerate(outputs)
        },
    }
