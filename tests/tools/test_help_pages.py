"""The help pages and the languages of the interface: complete, true to the nodes and to the words of the errors."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from hyvideo_core.video import FORMATS
from tools import locales
from tools.client import ComfyClient
from tools.paths import ROOT
from tools.pictures.catalog import PICTURES
from tools.pictures.drawing import MOST_BYTES
from tools.pictures.screens import SCREENS
from tools.server import PACK_NAME
from tools.workflow_catalog import WORKFLOWS

Json = dict[str, Any]

LANGUAGES = ("en", "zh")
#: Headings of a page, in order; a node without advanced inputs has no second, and only those that save have the third.
HEADINGS = {
    "en": ("Inputs", "Advanced inputs", "Which format", "Common mistakes"),
    "zh": ("输入", "高级输入", "选哪种格式", "常见错误"),
}
#: Names that are the same in Chinese.
PROPER = {
    "CFG",
    "CLIP",
    "CRF",
    "FreeNoise",
    "HyVideo APG",
    "HyVideo CFG-Zero★",
    "HyVideo EasyCache",
    "HyVideo FlowEdit",
    "HyVideo FreSca",
    "HyVideo LoRA",
    "HyVideo RIFLEx",
    "HyVideo SLG",
    "HyVideo STG",
    "HyVideo Studio",
    "HyVideo TeaCache",
    "Latent",
    "LoRA",
    "Sigmas",
    "VAE",
    "eta",
    "gamma",
    "k",
}
CHINESE = re.compile("[\u4e00-\u9fff]")
PICTURE = ".webp"
#: What a clone and an installation can bear.
MOST_BYTES_OF_ALL = 2_000_000
#: Inputs of one name that are something else in another node.
HOMONYMS = {"blocks", "last", "negative", "window_frames"}
#: A gap in a quoted error, where a value stands.
GAP = "…"
#: Shorter pieces of a quoted error would be found anywhere.
TELLING = 12


def locale(language: str, file: str = locales.NODES) -> Json:
    content: Json = json.loads((locales.FOLDER / language / file).read_text("utf-8"))
    return content


NODES = {language: locale(language) for language in LANGUAGES}
IDS = sorted(NODES["en"])


class Page:
    """A help page by its headings."""

    def __init__(self, node: str, language: str) -> None:
        self.text = locales.page(node, language).read_text("utf-8")
        first, *sections = re.split(r"^## ", self.text, flags=re.MULTILINE)
        self.title = first.splitlines()[0].removeprefix("# ")
        self.sections = {title: body for title, _, body in (section.partition("\n") for section in sections)}
        self.inputs, self.advanced, self.formats, self.mistakes = (
            re.findall(r"^- (.+)$", self.sections.get(heading, ""), re.MULTILINE) for heading in HEADINGS[language]
        )

    @property
    def pictures(self) -> dict[str, str]:
        """Words by the pictures' addresses."""
        return {address: words for words, address in re.findall(r"^!\[(.+)\]\((.+)\)$", self.text, re.MULTILINE)}

    @property
    def quotes(self) -> list[str]:
        """Errors that the page explains."""
        return named(self.mistakes)


def named(entries: list[str]) -> list[str]:
    """What entries begin with as code."""
    return [found[1] for entry in entries if (found := re.match(r"`([^`]+)`", entry))]


PAGES = [(node, language) for node in IDS for language in LANGUAGES]


# --- pages -------------------------------------------------------------------------------------------------------


def test_each_node_has_its_pages_and_no_page_lacks_its_node() -> None:
    found = {path for path in locales.PAGES.rglob("*.*") if path.suffix != PICTURE}
    assert found == {locales.page(node, language) for node, language in PAGES}


@pytest.mark.parametrize("node", IDS)
def test_a_page_shows_pictures_with_words_of_its_language(node: str) -> None:
    """Addresses are relative to ``web/docs``: there the browser looks for the pictures of every page."""
    english, chinese = Page(node, "en").pictures, Page(node, "zh").pictures
    assert english.keys() == chinese.keys() != set()
    assert all((locales.PAGES / address).is_file() for address in english)
    assert not any(CHINESE.search(words) for words in english.values())
    assert all(CHINESE.search(words) for words in chinese.values())


def test_every_picture_is_used_made_by_us_and_small() -> None:
    files = sorted((locales.PAGES / "pictures").iterdir())
    assert {f"pictures/{path.name}" for path in files} == {address for id in IDS for address in Page(id, "en").pictures}
    assert {path.name for path in files} == {f"{name}{PICTURE}" for name in (*PICTURES, *SCREENS)}
    sizes = [path.stat().st_size for path in files]
    assert max(sizes) <= MOST_BYTES
    assert sum(sizes) <= MOST_BYTES_OF_ALL
    for path in files:
        with Image.open(path) as picture:
            assert picture.format == "WEBP"


@pytest.mark.parametrize(("node", "language"), PAGES)
def test_a_page_names_each_input_and_no_other(node: str, language: str) -> None:
    page = Page(node, language)
    entries = page.inputs + page.advanced
    names = named(entries)
    assert len(names) == len(entries), "each entry begins with the input's name as code"
    assert sorted(map(locales.key, names)) == sorted(NODES["en"][node]["inputs"])


@pytest.mark.parametrize(("node", "language"), PAGES)
def test_a_page_has_its_parts_in_order(node: str, language: str) -> None:
    page = Page(node, language)
    assert list(page.sections) == [heading for heading in HEADINGS[language] if heading in page.sections]
    assert page.mistakes
    display_name, english = (NODES[each][node]["display_name"] for each in (language, "en"))
    assert page.title == (display_name if display_name == english else f"{display_name}（{english}）")
    assert {"en": "**Stands between** ", "zh": "**位置**："}[language] in page.text


@pytest.mark.parametrize("node", IDS)
def test_a_chinese_page_has_the_labels_that_the_browser_shows(node: str) -> None:
    page = Page(node, "zh")
    for entry in page.inputs + page.advanced:
        name, label = re.match(r"`([^`]+)`（(.+?)）：", entry).groups()
        assert label == NODES["zh"][node]["inputs"][locales.key(name)]["name"]


@pytest.mark.parametrize(("node", "language"), PAGES)
def test_a_page_leads_to_nodes_and_templates_that_exist(node: str, language: str) -> None:
    text = Page(node, language).text
    names = {each["display_name"] for each in NODES[language].values()}
    assert set(re.findall(r"(?<!\*)\*(HyVideo [^*]+)\*(?!\*)", text)) <= names
    assert set(re.findall(r"`(hyvideo_demo_\w+)`", text)) <= set(WORKFLOWS)


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_pages_of_nodes_that_save_tell_what_each_format_is_for(language: str) -> None:
    pages = {node: Page(node, language) for node in IDS if "format" in NODES["en"][node]["inputs"]}
    assert pages
    for page in pages.values():
        told = "\n".join(page.formats)
        assert [name for name in FORMATS if f"`{name}`" not in told] == []
        assert not set(re.findall(r"`((?:\w|[. -])+ (?:mp4|webm|mov))`", told)) - FORMATS.keys()
    assert len({tuple(page.formats) for page in pages.values()}) == 1, "they have the same formats"
    without = [node for node in IDS if Page(node, language).formats]
    assert without == list(pages)


@pytest.mark.parametrize("node", IDS)
def test_the_chinese_page_explains_the_same_errors(node: str) -> None:
    english, chinese = Page(node, "en"), Page(node, "zh")
    assert chinese.quotes == english.quotes
    assert len(chinese.mistakes) == len(english.mistakes)
    assert list(map(named, ([e] for e in chinese.inputs))) == list(map(named, ([e] for e in english.inputs)))


# --- errors ------------------------------------------------------------------------------------------------------


def sources() -> Iterator[ast.Module]:
    for folder in ("nodes", "hyvideo_core"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield ast.parse(path.read_text("utf-8"))


@cache
def texts() -> list[str]:
    """Every text of the sources, values in it as gaps but for constants."""
    modules = list(sources())
    constants: dict[str, str] = {}
    for module in modules:
        for line in module.body:
            if isinstance(line, ast.Assign) and isinstance(line.value, ast.Constant):
                for target in line.targets:
                    if isinstance(target, ast.Name) and isinstance(line.value.value, str):
                        constants[target.id] = line.value.value
    found = []
    for module in modules:
        for part in ast.walk(module):
            if isinstance(part, ast.JoinedStr):
                found.append("".join(_piece(value, constants) for value in part.values))
            elif isinstance(part, ast.Constant) and isinstance(part.value, str):
                found.append(part.value)
    return found


def _piece(value: ast.expr, constants: dict[str, str]) -> str:
    if isinstance(value, ast.Constant):
        return str(value.value)
    assert isinstance(value, ast.FormattedValue)
    name = value.value.id if isinstance(value.value, ast.Name) else ""
    return constants.get(name, GAP)


def is_said(quote: str) -> bool:
    """Whether some text of the sources holds the pieces of a quote, in order."""
    pieces = [piece for piece in quote.split(GAP) if piece.strip()]
    return any(_holds(text, pieces) for text in texts())


def _holds(text: str, pieces: list[str]) -> bool:
    at = 0
    for piece in pieces:
        found = text.find(piece, at)
        if found < 0:
            return False
        at = found + len(piece)
    return True


@pytest.mark.parametrize("node", IDS)
def test_a_page_quotes_errors_in_their_own_words(node: str) -> None:
    for quote in Page(node, "en").quotes:
        assert max(map(len, quote.split(GAP))) >= TELLING, quote
        assert is_said(quote), quote


@pytest.mark.parametrize("node", IDS)
def test_a_quoted_error_calls_inputs_as_the_nodes_do(node: str) -> None:
    inputs = {each["name"] for other in NODES["en"].values() for each in other["inputs"].values()}
    for quote in Page(node, "en").quotes:
        subject = re.match(r"([a-z]\w*) (?:is|are|has|holds) ", quote)
        assert subject is None or subject[1] in inputs, quote
        assert set(re.findall(r"\b[a-z]+_[a-z_]+\b", quote.replace("clip_l.safetensors", ""))) <= inputs, quote


def test_errors_and_tooltips_name_nodes_as_the_browser_does() -> None:
    names = {*old_names(), *(each["display_name"] for each in NODES["en"].values()), "HyVideo Studio"}
    for text in (*texts(), *(text for _, text in leaves(NODES["en"]))):
        for found in re.finditer(r"HyVideo (?=[A-Z])", text):
            assert any(text.startswith(name, found.start()) for name in names), text[found.start() :][:60]


def old_names() -> Iterator[str]:
    """Display names of the nodes that are there for old workflows only."""
    for path in sorted((ROOT / "nodes" / "legacy").glob("*.py")):
        for part in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(part, ast.keyword) and part.arg == "display_name" and isinstance(part.value, ast.Constant):
                yield str(part.value.value)


@pytest.mark.parametrize("node", IDS)
def test_a_chinese_page_tells_in_chinese_what_an_error_says(node: str) -> None:
    for entry in Page(node, "zh").mistakes:
        told = re.sub(r"`[^`]*`", "", entry).lstrip("：")
        assert len(CHINESE.findall(told)) >= TELLING // 2, entry


def test_a_misquoted_error_is_found_out() -> None:
    assert is_said("cfg is …, but there is no negative prompt. Connect one or set cfg to 1.")
    assert not is_said("cfg is …, but there is no negative prompt. Connect one, or set cfg to 1.")
    assert not is_said("but there is no negative prompt. … cfg is …")


# --- languages ---------------------------------------------------------------------------------------------------


def leaves(content: Json, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    for name, value in content.items():
        if isinstance(value, dict):
            yield from leaves(value, (*path, name))
        else:
            yield (*path, name), value


@pytest.mark.parametrize("file", [locales.NODES, locales.CATEGORIES])
def test_chinese_has_the_keys_of_english_and_says_something(file: str) -> None:
    english, chinese = dict(leaves(locale("en", file))), dict(leaves(locale("zh", file)))
    assert list(chinese) == list(english)
    assert not [path for path, text in chinese.items() if not text.strip()]
    unsaid = {text for text in chinese.values() if not CHINESE.search(text)}
    assert unsaid <= PROPER


def test_the_chinese_files_are_written_as_the_english_ones() -> None:
    for file in (locales.NODES, locales.CATEGORIES):
        assert (locales.FOLDER / "zh" / file).read_text("utf-8") == locales.text(locale("zh", file))


def test_each_node_has_a_chinese_name_of_its_own() -> None:
    names = [node["display_name"] for node in NODES["zh"].values()]
    assert len(set(names)) == len(names)


def test_an_input_has_one_chinese_name_in_all_nodes() -> None:
    labels: dict[str, set[str]] = {}
    for node, content in NODES["zh"].items():
        for key, entry in content["inputs"].items():
            labels.setdefault(NODES["en"][node]["inputs"][key]["name"], set()).add(entry["name"])
    assert {name for name, found in labels.items() if len(found) > 1} == HOMONYMS


@pytest.mark.parametrize("node", IDS)
def test_numbers_and_files_are_not_lost_in_translation(node: str) -> None:
    literal = re.compile(r"\d+(?:\.\d+)?|[\w.-]+\.(?:safetensors|json)|(?:models|output)/\w+|<image>|\{\}|\\\(")
    english, chinese = dict(leaves(NODES["en"][node])), dict(leaves(NODES["zh"][node]))
    for path, text in english.items():
        if path[-1] in ("tooltip", "description"):
            assert set(literal.findall(text)) <= set(literal.findall(chinese[path])), path


@pytest.mark.parametrize("node", IDS)
def test_a_chinese_text_names_nodes_as_the_browser_does(node: str) -> None:
    names = {each["display_name"] for each in NODES["zh"].values()}
    for path, text in leaves(NODES["zh"][node]):
        assert set(re.findall(r"“(HyVideo [^”]+)”", text)) <= names, path
        foreign = {each["display_name"] for each in NODES["en"].values()} - names
        assert not [name for name in foreign if name in text], path


@pytest.mark.parametrize("language", LANGUAGES)
def test_names_hold_nothing_that_the_browser_takes_for_syntax(language: str) -> None:
    """It fills names and descriptions in as messages; tooltips are shown as they are."""
    for path, text in leaves(NODES[language]):
        if path[-1] != "tooltip":
            assert not re.search(r"[{}@|]", text), path


# --- in the host -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def info(server: Any) -> Json:
    """What the host says of the pack's nodes."""
    with server.client() as client:
        return locales.ours(client.object_info())


@pytest.mark.server
def test_the_english_files_say_what_the_nodes_say(info: Json) -> None:
    stale = [path.name for path, text in locales.render(info).items() if path.read_text("utf-8") != text]
    assert not stale, f"run python tools/dev.py workflows: {stale}"


@pytest.mark.server
@pytest.mark.parametrize("node", IDS)
def test_a_page_tells_which_inputs_are_advanced(info: Json, node: str) -> None:
    page = Page(node, "en")
    advanced = {name for name, _, options in locales.inputs_of(info[node]["input"]) if options.get("advanced")}
    assert set(named(page.advanced)) == advanced


@pytest.mark.server
@pytest.mark.parametrize("node", IDS)
def test_values_to_choose_from_are_not_translated(info: Json, node: str) -> None:
    for name, _, options in locales.inputs_of(info[node]["input"]):
        values = [value["key"] if isinstance(value, dict) else value for value in options.get("options", [])]
        key = locales.key(name)
        english, chinese = (NODES[language][node]["inputs"][key]["tooltip"] for language in LANGUAGES)
        assert not [value for value in values if value in english and value not in chinese], name


@pytest.mark.server
def test_the_host_serves_pages_and_languages(client: ComfyClient) -> None:
    for name in ("HyvSampler/zh.md", "HyvSampler.md"):
        served = client.request(f"/extensions/{PACK_NAME}/docs/{name}")
        assert served.decode("utf-8") == (locales.PAGES / name).read_text("utf-8")
    picture = next(iter(Page("HyvSampler", "en").pictures))
    assert client.request(f"/extensions/{PACK_NAME}/docs/{picture}") == (locales.PAGES / picture).read_bytes()
    offered = client.get("/i18n")
    for language in LANGUAGES:
        assert offered[language]["nodeDefs"].items() >= NODES[language].items()
        categories = locale(language, locales.CATEGORIES)["nodeCategories"]
        assert offered[language]["nodeCategories"].items() >= categories.items()


@pytest.mark.server
def test_nothing_is_loaded_into_the_browser_for_it(client: ComfyClient) -> None:
    scripts = [path for path in client.get("/extensions") if path.startswith(f"/extensions/{PACK_NAME}/")]
    assert len(scripts) == len(list(Path(ROOT / "web").rglob("*.js")))
