"""Models that come with the pack are in the host's lists and in ours, behind whatever the user has."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tools import comfyui
from tools.paths import ROOT

FOLDERS = ("diffusion_models", "text_encoders", "vae", "loras")
#: Asks the host's folder_paths before and after it imports the pack's file with the lists.
QUESTION = """
import importlib, json, sys, types
import comfy.options; comfy.options.enable_args_parsing()
import folder_paths as host

def lists():
    return {{name: (host.get_folder_paths(name), host.get_filename_list(name)) for name in {names!r}}}

before = lists()
sys.modules["pack"] = types.ModuleType("pack")
sys.modules["pack"].__path__ = [{folder!r}]
models = importlib.import_module("pack.models")
after = lists()
print(json.dumps({{
    "before": before,
    "after": after,
    "found": {{name: {{file: host.get_full_path(name, file) for file in after[name][1]}} for name in after}},
    "transformers": {{name: str(models.transformer(name)) for name in models.transformers()}},
    "text encoders": {{name: str(models.text_encoder(name)) for name in models.text_encoders()}},
}}))
"""
#: The host's folders with lists of our own.
OURS = {"diffusion_models": "transformers", "text_encoders": "text encoders"}


class World:
    """A pack with a file of its own in each folder, and a user with a models folder."""

    def __init__(self, folder: Path) -> None:
        self.user, self.pack = folder / "user" / "models", folder / "pack"
        (self.pack / "nodes").mkdir(parents=True)
        for name in ("models.py", "names.py"):
            shutil.copy(ROOT / "nodes" / name, self.pack / "nodes")
        for name in FOLDERS:
            touch(self.user / name / "mine.safetensors")
            touch(self.user / name / "both.safetensors")

    def ship(self) -> None:
        """Put files into the pack."""
        for name in FOLDERS:
            touch(self.pack / "models" / name / "shipped.safetensors")
            touch(self.pack / "models" / name / "both.safetensors")

    def ask(self) -> dict[str, Any]:
        """What the host says once the pack is imported."""
        host = comfyui.locate()
        assert host is not None, "There is no ComfyUI: run the tests with python tools/dev.py test"
        code = QUESTION.format(names=FOLDERS, folder=str(self.pack / "nodes"))
        command = [sys.executable, "-c", code, "--base-directory", str(self.user.parent)]
        return json.loads(subprocess.run(command, cwd=host, check=True, capture_output=True).stdout)


def touch(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_shipped_files_are_in_every_list_and_are_found(world: World) -> None:
    world.ship()
    answer = world.ask()
    for name in FOLDERS:
        shipped = str(world.pack / "models" / name / "shipped.safetensors")
        assert answer["before"][name][1] == ["both.safetensors", "mine.safetensors"]
        assert answer["after"][name][1] == ["both.safetensors", "mine.safetensors", "shipped.safetensors"]
        assert answer["found"][name]["shipped.safetensors"] == shipped
        assert name not in OURS or answer[OURS[name]]["shipped.safetensors"] == shipped


def test_the_users_own_file_of_the_same_name_wins(world: World) -> None:
    world.ship()
    answer = world.ask()
    for name in FOLDERS:
        users = str(world.user / name / "both.safetensors")
        assert answer["found"][name]["both.safetensors"] == users
        assert name not in OURS or answer[OURS[name]]["both.safetensors"] == users


def test_the_folders_where_files_are_saved_stay_the_users(world: World) -> None:
    world.ship()
    answer = world.ask()
    for name in FOLDERS:
        assert answer["after"][name][0] == [*answer["before"][name][0], str(world.pack / "models" / name)]


def test_a_pack_without_models_changes_nothing(world: World) -> None:
    answer = world.ask()
    assert answer["after"] == answer["before"]
