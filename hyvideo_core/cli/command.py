"""``generate`` as a program: what it says, and how it ends.

Files' paths go to standard output, everything else to standard error.
"""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tqdm.contrib.logging import logging_redirect_tqdm

from hyvideo_core.cli.arguments import parse
from hyvideo_core.cli.generate import generate
from hyvideo_core.errors import HyVideoError, PromptError, is_out_of_memory

FAILURE, BAD_ARGUMENT, INTERRUPTED = 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv``; the process's exit status."""
    arguments = parse(argv)
    with _spoken() as logger:
        try:
            for path in generate(arguments):
                _tell(str(path))
        except KeyboardInterrupt:
            logger.error("Stopped. Videos that were not finished are not saved.")
            return INTERRUPTED
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            logger.error(
                "The device ran out of memory (%s). Add --use-cpu-offload, or free what other programs hold.",
                str(error).partition("\n")[0],
            )
            return FAILURE
        # The library says ValueError where an argument does not suit the model.
        except (HyVideoError, ValueError, OSError) as error:
            logger.error("%s", error)
            return BAD_ARGUMENT if isinstance(error, PromptError) else FAILURE
    return 0


@contextmanager
def _spoken() -> Iterator[logging.Logger]:
    """The library's log on standard error while the context lasts, above any progress bar."""
    logger = logging.getLogger("hyvideo_core")
    before = logger.level, logger.propagate
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        with logging_redirect_tqdm([logger]):
            yield logger
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]


def _tell(line: str) -> None:
    """A result on standard output, at once, in whatever encoding that has."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
