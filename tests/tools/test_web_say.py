"""The texts of picker and panel are there in each language, and each is said."""

from __future__ import annotations

import re

from tools.paths import ROOT

WEB = ROOT / "web"
SAY = WEB / "say.js"
OTHERS = "\n".join(path.read_text("utf-8") for path in WEB.rglob("*.js") if path != SAY)


def texts() -> dict[str, dict[str, str]]:
    """What is said, by language."""
    found = re.findall(r"^  (\w+): \{\n(.*?)\n  \},", SAY.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    return {language: dict(re.findall(r'^    (\w+): "(.*)",$', said, re.MULTILINE)) for language, said in found}


def test_all_languages_say_the_same_things_with_the_same_values() -> None:
    english = texts()["en"]
    assert len(english) > 60
    assert {"en", "zh"} <= texts().keys()
    for language, said in texts().items():
        assert said.keys() == english.keys(), language
        for key, text in english.items():
            assert sorted(re.findall(r"\{\w+\}", text)) == sorted(re.findall(r"\{\w+\}", said[key])), (language, key)


def test_what_is_said_has_a_text_and_each_text_is_said() -> None:
    assert set(re.findall(r'say\("(\w+)"', OTHERS)) <= texts()["en"].keys()
    assert texts()["en"].keys() <= set(re.findall(r'"(\w+)"', OTHERS))
