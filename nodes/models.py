"""Which model files and folders there are, and where: what the loaders list."""

from __future__ import annotations

import json
from pathlib import Path

import folder_paths

from .names import FileNames, spellings

#: What the host lists as a model file, and GGUF, which it does not.
SUFFIXES = {*folder_paths.supported_pt_extensions, ".gguf"}
#: Our own lists of the host's folders, so that files of every suffix are in them.
TRANSFORMERS, TEXT_ENCODERS = "hyvideo_transformers", "hyvideo_text_encoders"
#: Folders under ``models`` where diffusers' pipelines and Hugging Face's text models are found, too.
DIFFUSERS_FOLDERS = ("diffusion_models", "diffusers")
TEXT_FOLDERS = ("text_encoders", "LLM", "clip")
VISION_TOWERS = "clip_vision"
#: How the classes of models end that write text.
WRITERS = "ForCausalLM"
DIFFUSERS_CLASS = "HunyuanVideoTransformer3DModel"

#: What comes with the pack, in folders named as the host's.
SHIPPED = Path(__file__).resolve().parent.parent / "models"
SHIPPED_FOLDERS = ("diffusion_models", "text_encoders", "vae", "loras")

for _name in SHIPPED_FOLDERS:
    if (SHIPPED / _name).is_dir():
        # Behind the user's own folders: their files win, and what is downloaded or saved still goes there.
        folder_paths.add_model_folder_path(_name, str(SHIPPED / _name))
for _ours, _hosts in ((TRANSFORMERS, "diffusion_models"), (TEXT_ENCODERS, "text_encoders")):
    folder_paths.folder_names_and_paths[_ours] = (folder_paths.get_folder_paths(_hosts), SUFFIXES)


def files(key: str, first: tuple[str, ...] = ()) -> FileNames:
    """The host's files of a kind, after the choices ``first``."""
    return FileNames.of(f"models/{key}", folder_paths.get_filename_list(key), first)


def file(key: str, choice: str) -> Path:
    """Where the chosen file of a kind is."""
    found = (folder_paths.get_full_path(key, spelling) for spelling in spellings(choice))
    return Path(next(filter(None, found), None) or folder_paths.get_full_path_or_raise(key, choice))


def transformers() -> FileNames:
    """Files, and diffusers' folders by their path inside their models folder."""
    choices = set(folder_paths.get_filename_list(TRANSFORMERS))
    for root in _roots(DIFFUSERS_FOLDERS, "diffusion_models"):
        for config in (*root.glob("*/config.json"), *root.glob("*/transformer/config.json")):
            if _class_in(config) == DIFFUSERS_CLASS:
                choices.add(config.parent.relative_to(root).as_posix())
    return FileNames.of("models/diffusion_models", choices)


def transformer(choice: str) -> Path:
    """Where the chosen transformer is."""
    return _folder(choice, _roots(DIFFUSERS_FOLDERS, "diffusion_models")) or file(TRANSFORMERS, choice)


def text_encoders() -> FileNames:
    """Files, and folders with a config.json by their path inside their models folder."""
    choices = set(folder_paths.get_filename_list(TEXT_ENCODERS))
    for root in _roots(TEXT_FOLDERS, "text_encoders"):
        choices |= {found.parent.relative_to(root).as_posix() for found in root.glob("*/config.json")}
    return FileNames.of("models/text_encoders", choices)


def text_encoder(choice: str) -> Path:
    """Where the chosen text encoder is."""
    return _folder(choice, _roots(TEXT_FOLDERS, "text_encoders")) or file(TEXT_ENCODERS, choice)


def vision_towers(first: tuple[str, ...] = ()) -> FileNames:
    """The host's files of CLIP vision, and everything among the text encoders: a whole LLaVA has its own eyes."""
    choices = [*folder_paths.get_filename_list(VISION_TOWERS), *text_encoders()]
    return FileNames.of(f"models/{VISION_TOWERS}", choices, first)


def vision_tower(choice: str) -> Path:
    """Where the chosen vision tower is."""
    is_file = any(folder_paths.get_full_path(VISION_TOWERS, spelling) for spelling in spellings(choice))
    return file(VISION_TOWERS, choice) if is_file else text_encoder(choice)


def language_models(first: tuple[str, ...] = ()) -> FileNames:
    """Folders among the text encoders whose configuration says that they write text."""
    roots = _roots(TEXT_FOLDERS, "text_encoders")
    names = (
        found.parent.relative_to(root).as_posix()
        for root in roots
        for found in root.glob("*/config.json")
        if any(name.endswith(WRITERS) for name in _classes_in(found))
    )
    return FileNames.of("models/text_encoders", names, first)


def _roots(names: tuple[str, ...], host_key: str) -> list[Path]:
    roots = [Path(folder_paths.models_dir) / name for name in names]
    roots += [Path(path) for path in folder_paths.get_folder_paths(host_key)]
    return [root for root in dict.fromkeys(roots) if root.is_dir()]


def _folder(choice: str, roots: list[Path]) -> Path | None:
    folders = ((root, root / spelling) for spelling in spellings(choice) for root in roots)
    inside = (folder for root, folder in folders if folder.resolve().is_relative_to(root.resolve()))
    return next((folder for folder in inside if folder.is_dir()), None)


def _classes_in(config: Path) -> list[str]:
    """The classes that a Hugging Face configuration names; none where it names none."""
    try:
        return [str(name) for name in json.loads(config.read_text("utf-8"))["architectures"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _class_in(config: Path) -> str:
    """The class a diffusers configuration names; empty where it names none."""
    try:
        return str(json.loads(config.read_text("utf-8")).get("_class_name", ""))
    except (OSError, ValueError, AttributeError):
        return ""
