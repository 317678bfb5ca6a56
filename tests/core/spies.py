"""Extensions that change nothing and note what passes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from hyvideo_core.sample.seams import Evaluation, Extension, Predict


@dataclass(frozen=True)
class Spy(Extension):
    """Writes down every evaluation that reaches the transformer."""

    rank: ClassVar[int] = 2000
    seen: list[Evaluation] = field(default_factory=list)

    def wrap_predict(self, inner: Predict, state: Any) -> Predict:
        def predict(evaluation: Evaluation) -> torch.Tensor:
            self.seen.append(evaluation)
            return inner(evaluation)

        return predict
