"""HyVideo Studio: HunyuanVideo for ComfyUI.

ComfyUI imports this folder as a package and calls ``comfy_entrypoint``. Test collectors import it without one,
hence the guard.
"""

import importlib.util
import logging
import re
import sys
from pathlib import Path

#: The first ComfyUI that has all of the node interface that the nodes use; pyproject.toml says the same.
OLDEST_HOST = "0.30.0"


def _unfit() -> str | None:
    """Why this ComfyUI cannot run the pack, in one sentence; None if it can."""
    try:
        from comfyui_version import __version__ as found
    except ImportError:
        found = "older than its own version numbers"
    if _numbers(found) >= _numbers(OLDEST_HOST):
        try:
            from comfy_api.latest import ComfyExtension, Input, InputImpl, Types, io, ui  # noqa: F401

            io.Schema, io.DynamicCombo, io.Autogrow  # noqa: B018
            return None
        except (ImportError, AttributeError) as error:
            found = f"{found}, changed or not whole ({error})"
    return (
        f"HyVideo Studio needs ComfyUI {OLDEST_HOST} or newer, but this one is {found}: update ComfyUI, as you "
        "installed it or by the Manager's button, and start it again."
    )


def _numbers(version: str) -> tuple[int, ...]:
    """The first three numbers of a version."""
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


def _provide_core() -> None:
    """Make ``hyvideo_core`` importable under its own name from this folder, whatever else is installed.

    The host gives packs a name made from their path; loading the library both ways would yield every class
    twice. Nothing is added to ``sys.path``, where this pack's ``nodes`` would shadow the host's.
    """
    folder = Path(__file__).resolve().parent / "hyvideo_core"
    loaded = sys.modules.get("hyvideo_core")
    if loaded is not None and Path(loaded.__file__ or "").parent == folder:
        return
    spec = importlib.util.spec_from_file_location(
        "hyvideo_core", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    if spec is None or spec.loader is None:
        raise ImportError(f"HyVideo Studio is incomplete: {folder} is missing. Install the pack again.")
    module = importlib.util.module_from_spec(spec)
    sys.modules["hyvideo_core"] = module
    spec.loader.exec_module(module)


if __package__:
    if _reason := _unfit():
        # No exception, whose traceback would hide the sentence, and nothing to load: the host notes a failed import.
        logging.error(_reason)
    else:
        _provide_core()
        from .nodes import comfy_entrypoint

        #: Served to the browser; the nodes' help pages are in ``docs`` there.
        WEB_DIRECTORY = "./web"
        __all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
