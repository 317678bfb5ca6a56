"""HyVideo Studio: HunyuanVideo for ComfyUI.

ComfyUI imports this folder as a package and calls ``comfy_entrypoint``. Test collectors import it without one,
hence the guard.
"""

import importlib.util
import sys
from pathlib import Path


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


#: Served to the browser; the nodes' help pages are in ``docs`` there.
WEB_DIRECTORY = "./web"

if __package__:
    _provide_core()
    from .nodes import comfy_entrypoint

    __all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
