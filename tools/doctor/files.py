"""Which model files are here and which are missing: the real model's, and those that come with the pack."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from tools import comfyui, model_files
from tools.demo_model import files as demo_files
from tools.doctor.lines import BAD, GOOD, INFO, WIDTH, say
from tools.model_files import Found
from tools.paths import HOST_BASE


def report_models(host: Path | None) -> list[Found]:
    """The files found and the parts still missing."""
    ours = HOST_BASE / "models"
    known = model_files.comfyui_folders(host) if host else {}
    folders = [folder for name in model_files.FOLDERS for folder in (*known.get(name, ()), ours / name)]
    pipelines = [models / model_files.PIPELINES for models in (ours, *([host / "models"] if host else []))]
    try:
        describe = model_files.loaders()
    except Exception as error:  # a broken package may raise anything at import
        say(INFO, f"told by the names inside alone, since the loaders cannot run here ({error})")
        describe = None
    found = model_files.scan(model_files.existing(folders), describe, model_files.existing(pipelines))
    for file in found:
        sign = GOOD if file.usable else BAD if file.note.startswith("damaged") else INFO
        say(sign, f"{file.kind or 'file'}: {file.path}", *textwrap.wrap(file.note, WIDTH))
    loras = [*known.get(model_files.LORAS, ()), ours / model_files.LORAS]
    say(INFO, f"LoRAs: {model_files.count_loras(model_files.existing(loras))} files")
    target = (HOST_BASE if host == comfyui.HOST_COMFYUI else host or HOST_BASE) / "models"
    for kind in missing_kinds(found):
        source = model_files.SOURCES[kind]
        where = [f"from {source.page}", f"into {target / source.folder}"]
        say(BAD, f"{kind} is missing: {source.file}", *where, *model_files.ALTERNATIVES.get(kind, ()))
    return found


def missing_kinds(found: Sequence[Found]) -> list[str]:
    """The parts of which no file was found."""
    present = {file.kind for file in found if file.usable}
    return [kind for kind in model_files.KINDS if kind not in present]


def report_demo() -> bool:
    """Whether every file of the small model that comes with the pack is there and whole."""
    problems = {file: model_files.damage(file) for file in demo_files.ALL}
    for file, problem in problems.items():
        say(BAD if problem else GOOD, f"{file}{problem and f': {problem}'}")
    return not any(problems.values())
