"""Names for new files: nothing is overwritten, and a name appears only with the whole file behind it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def first_free(candidates: Iterator[Path], beside: str | None, after: Path | None = None) -> Path:
    """The first of the paths that is free, and with the suffix ``beside`` too.

    Raises ``FileExistsError``, which tells of the last one or ``after``, if there is none.
    """
    taken = after
    for path in candidates:
        if not path.exists() and (beside is None or not path.with_suffix(beside).exists()):
            return path
        taken = path
    raise FileExistsError(f"{taken} exists already and is not overwritten. Choose another name.")


def placed(finished: Path, path: Path) -> bool:
    """Give a file or folder of the same file system its name; False if that is taken."""
    if finished.is_dir():
        return _folder_placed(finished, path)
    try:
        # A rename would overwrite, a hard link does not.
        os.link(finished, path)
    except FileExistsError:
        return False
    except OSError:
        return _moved(finished, path)
    return True


def _moved(source: Path, target: Path) -> bool:
    """For file systems without hard links: take the name first, then move onto it."""
    try:
        target.open("xb").close()
    except FileExistsError:
        return False
    try:
        source.replace(target)
    except BaseException:
        target.unlink()
        raise
    return True


def _folder_placed(source: Path, target: Path) -> bool:
    """On Windows a rename never overwrites; elsewhere it may replace an empty folder, so that is made first."""
    claims = os.name != "nt"
    try:
        if claims:
            target.mkdir()
    except FileExistsError:
        return False
    try:
        source.rename(target)
    except BaseException as error:
        if claims:
            target.rmdir()
        elif isinstance(error, FileExistsError):
            return False
        raise
    return True
