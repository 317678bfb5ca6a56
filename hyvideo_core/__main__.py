"""``python -m hyvideo_core``."""

import sys
from importlib.util import find_spec
from pathlib import Path

#: What a run imports besides what requirements.txt names.
PACKAGES = ("torch", "transformers", "safetensors", "einops", "tqdm", "psutil")


def _check_packages() -> None:
    """End with a sentence where a package is missing, before the first import of one fails."""
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        requirements = Path(__file__).resolve().parent.parent / "requirements.txt"
        sys.exit(
            f"{sys.executable} lacks {', '.join(missing)}. Use ComfyUI's Python, which has all that is needed, or "
            f"install it with:\n{sys.executable} -m pip install {' '.join(missing)} -r {requirements}"
        )


if __name__ == "__main__":
    _check_packages()
    from hyvideo_core.cli import main

    sys.exit(main())
