"""Names of files in lists: one spelling on every system, and workflows from elsewhere find theirs."""

from __future__ import annotations

import os
from collections.abc import Iterable


def spellings(name: str) -> tuple[str, str]:
    """The name as it is, and as a list has it if it was saved on Windows."""
    return name, name.replace("\\", "/")


class FileNames(list[str]):
    """Names for a list input, made by ``of``; ``folder`` is where a new file would be put, as ``models/vae``.

    The host refuses a value that is not ``in`` the list. A name with backslashes, as older workflows and other packs
    save it on Windows, is in it as well. The browser gets a copy, which the host makes as it copies any list.
    """

    folder: str

    @classmethod
    def of(cls, folder: str, names: Iterable[str], first: Iterable[str] = (), *, separator: str = os.sep) -> FileNames:
        """``first`` and then ``names`` sorted, with folders divided by ``/`` on every system."""
        # Where the separator is another, a backslash is a character like any other.
        shared = {name.replace("\\", "/") if separator == "\\" else name for name in names}
        made = cls([*first, *sorted(shared)])
        made.folder = folder
        return made

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and any(list.__contains__(self, spelling) for spelling in spellings(name))
