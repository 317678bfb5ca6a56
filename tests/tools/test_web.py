"""What the browser is given fits together: settings, their names in other languages, and what the server takes."""

from __future__ import annotations

import json
import re

from tools import locales
from tools.paths import ROOT

PREVIEW = (ROOT / "web" / "preview.js").read_text("utf-8")


def test_the_setting_of_previews_has_chinese_names_for_itself_and_each_option() -> None:
    (setting,) = re.findall(r'^const SETTING = "(.+)";$', PREVIEW, re.MULTILINE)
    names = json.loads((locales.FOLDER / "zh" / "settings.json").read_text("utf-8"))
    options = re.findall(r'value: "\w+", text: "(.+?)"', PREVIEW)
    assert list(names[setting.replace(".", "_")]["options"]) == options


def test_the_server_takes_every_option_of_the_setting() -> None:
    (choices,) = re.findall(r"= CHOICES = \((.+?)\)", (ROOT / "nodes" / "viewers.py").read_text("utf-8"))
    assert re.findall(r'value: "(\w+)"', PREVIEW) == re.findall(r'"(\w+)"', choices)
