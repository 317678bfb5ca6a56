"""Which of the embeddings of an image reach the transformer, written as Python writes slices.

Source: ComfyUI-HunyuanVideoWrapper ``token_helper.py`` (image_token_selection_expr), where an empty text selects all
and an index beyond the end nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from hyvideo_core.errors import PromptError

_NUMBER = r"\s*([+-]?[0-9]{1,9})?\s*"
_SLICE = re.compile(rf"{_NUMBER}(:{_NUMBER}(?::{_NUMBER})?)?")


@dataclass(frozen=True)
class TokenSelection:
    """Slices and single places, separated by commas: ``::4`` is every fourth, ``:64, -64:`` the first and last 64.

    What several of them name is selected once, and all in the order of the image. Raises ``PromptError`` for a text
    that is none.
    """

    text: str = "::4"

    def __post_init__(self) -> None:
        for part in self.text.split(","):
            _read(part)

    def places(self, count: int) -> list[int]:
        """The places selected of ``count``, rising. Raises ``PromptError`` for none, and for one that is not there."""
        found: set[int] = set()
        for part in self.text.split(","):
            chosen = _read(part)
            if isinstance(chosen, slice):
                found.update(range(count)[chosen])
            elif -count <= chosen < count:
                found.add(chosen % count)
            else:
                raise PromptError(
                    f"The selection '{self.text}' names place {chosen} of an image, but there are {count}: 0 to "
                    f"{count - 1}, or -1 to -{count} from the end."
                )
        if not found:
            raise PromptError(
                f"The selection '{self.text}' selects nothing of an image's {count} places. Write ::4 for every fourth."
            )
        return sorted(found)


def _read(part: str) -> slice | int:
    """One slice or place. Raises ``PromptError`` for other texts."""
    match = _SLICE.fullmatch(part)
    if match is None or not part.strip():
        raise PromptError(
            f"'{part.strip()}' is no selection of an image's places. Write slices as in Python, such as ::4, :128 or "
            "-64:, several of them separated by commas."
        )
    start, is_slice, stop, step = match.groups()
    if not is_slice:
        return int(start)
    if step is not None and int(step) == 0:
        raise PromptError(f"'{part.strip()}' has a step of 0, but it must be 1 or more, or negative.")
    return slice(*(None if number is None else int(number) for number in (start, stop, step)))
