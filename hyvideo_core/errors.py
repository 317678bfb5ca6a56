"""What can go wrong, as types a caller can tell apart.

Every message says what was found, what was expected, in which file or field, and what to do.
"""

import torch


class HyVideoError(Exception):
    """Base of every error this library raises on purpose."""


class CheckpointError(HyVideoError):
    """A file is not the checkpoint it should be: wrong kind, damaged, unsafe, or incomplete."""


class GeometryError(HyVideoError, ValueError):
    """A size or length the model cannot represent."""


class PromptError(HyVideoError, ValueError):
    """A prompt or template that cannot be encoded."""


class TokenizerError(HyVideoError):
    """A tokenizer that does not reproduce the model's own token ids."""


class NumericsError(HyVideoError, ArithmeticError):
    """NaN or infinity where the model should give numbers."""


class DoesNotFitError(HyVideoError):
    """More memory is needed than there is, whatever is done; ``needed_bytes`` is the least, where that is known."""

    def __init__(self, message: str, needed_bytes: int | None = None) -> None:
        super().__init__(message)
        self.needed_bytes = needed_bytes


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device or its page-locked memory ran out: torch's own type for it, or another with these words."""
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "out of memory" in str(error).lower()
