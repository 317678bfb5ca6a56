"""``python -m hyvideo_core``."""

import sys

from hyvideo_core.cli import main

if __name__ == "__main__":
    sys.exit(main())
