"""What the language model is asked to do with a prompt.

Source: HunyuanVideo ``hyvideo/constants.py``. The texts are part of the model's interface: it was trained on the
hidden states of exactly these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hyvideo_core.errors import PromptError

PLACEHOLDER = "{}"
#: What the tokenizer puts before every text.
BEGIN = "<|begin_of_text|>"
#: Tokens of template and prompt together, for every template of the original.
MAX_LENGTH = 351


@dataclass(frozen=True)
class Template:
    """The language model's input around a prompt.

    ``text`` holds one ``{}`` where the prompt goes; the first ``crop_start`` tokens of the result are dropped (None:
    all before the prompt); ``max_length`` tokens are the limit of the whole. Raises ``PromptError`` for a text with
    no placeholder or several, for one with <|begin_of_text|>, and for a crop beyond the limit.
    """

    name: str
    text: str
    crop_start: int | None = None
    max_length: int = MAX_LENGTH

    def __post_init__(self) -> None:
        found = self.text.count(PLACEHOLDER)
        if found != 1:
            raise PromptError(
                f"template '{self.name}' has {found} placeholders {PLACEHOLDER}, but must have exactly one, where the "
                "prompt goes."
            )
        if BEGIN in self.text:
            raise PromptError(
                f"template '{self.name}' has {BEGIN}, which the tokenizer puts before every text itself. Delete it, or "
                "the language model reads it twice."
            )
        if self.crop_start is not None and not 0 <= self.crop_start < self.max_length:
            raise PromptError(
                f"template '{self.name}' drops {self.crop_start} tokens, but that must be 0 to {self.max_length - 1}."
            )

    def fill(self, prompt: str) -> str:
        """The text with the prompt in its place; braces in the prompt stay as they are."""
        return self.text.replace(PLACEHOLDER, prompt)

    @property
    def before(self) -> str:
        """The text before the prompt."""
        return self.text.partition(PLACEHOLDER)[0]


def _chat(instruction: str) -> str:
    """A Llama-3 conversation: the system's instruction, then the user's turn with the prompt."""
    return (
        f"<|start_header_id|>system<|end_header_id|>\n\n{instruction}<|eot_id|>"
        f"<|start_header_id|>user<|end_header_id|>\n\n{PLACEHOLDER}<|eot_id|>"
    )


VIDEO = Template(
    "video",
    _chat(
        "Describe the video by detailing the following aspects: "
        "1. The main content and theme of the video."
        "2. The color, shape, size, texture, quantity, text, and spatial relationships of the objects."
        "3. Actions, events, behaviors temporal relationships, physical movement changes of the objects."
        "4. background environment, light, style and atmosphere."
        "5. camera angles, movements, and transitions used in the video:"
    ),
    crop_start=95,
)
IMAGE = Template(
    "image",
    _chat(
        "Describe the image by detailing the color, shape, size, texture, quantity, text, spatial relationships of "
        "the objects and background:"
    ),
    crop_start=36,
)


def require_prompts(prompts: Sequence[object]) -> None:
    """Raise ``PromptError`` for no prompts, and for a lone string, which would be taken letter by letter."""
    if isinstance(prompts, str) or not prompts:
        raise PromptError(f"prompts is {prompts!r}, but must be a list of one prompt or more, such as ['a cat'].")


def custom(text: str, crop_start: int | None = None) -> Template:
    """A template of the user's own. Raises ``PromptError`` as ``Template`` does.

    Without ``crop_start`` the tokenizer tells, for each prompt, how many tokens lie before it; all of them are dropped.
    Special tokens in the text, such as <|start_header_id|> and <|eot_id|>, are read as the tokens they name: dropped
    like any other before the prompt, kept as rows like any other after it. The model was trained on rows that end with
    <|eot_id|>, so a text should end with {}<|eot_id|>.
    """
    return Template("custom", text, crop_start)
