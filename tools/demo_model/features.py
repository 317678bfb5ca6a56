"""Captions to what the transformer reads, for many captions at a time, from the trained text encoders."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hyvideo_core.text.templates import IMAGE, VIDEO
from hyvideo_core.weights.text import load_clip, load_mllm
from tools.demo_model import files
from tools.demo_model.training import DEVICE


class TextFeatures:
    """The shipped text encoders. They give what the pack's own ``TextEncoders`` give, in padded batches."""

    def __init__(self) -> None:
        self.mllm = load_mllm(files.LLAMA, dtype=torch.float32, device=DEVICE)
        self.clip = load_clip(files.CLIP, dtype=torch.float32, device=DEVICE)

    @torch.no_grad()
    def __call__(
        self, captions: Sequence[str], *, image: bool = False, tokens: Sequence[int] = ()
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Hidden states [B, L, D], mask [B, L] and pooled vectors [B, P]; L is that of the longest, or the
        first of ``tokens`` that holds it.

        Raises ``ValueError`` for captions longer than all of ``tokens``.
        """
        template = IMAGE if image else VIDEO
        crop = template.crop_start or 0
        with torch.autocast(DEVICE, torch.bfloat16):
            ids, lengths = padded([self.mllm.tokenize(caption, template)[0] for caption in captions])
            hidden = self.mllm.llama(input_ids=ids, use_cache=False).last_hidden_state[:, crop:]
            mask = torch.arange(hidden.shape[1], device=DEVICE) < (lengths - crop)[:, None]
            ids, lengths = padded([self.clip.tokenizer.encode(caption) for caption in captions])
            pooled = self.clip.clip(input_ids=ids).last_hidden_state[torch.arange(len(ids)), lengths - 1]
        if tokens:
            length = next((count for count in tokens if count >= hidden.shape[1]), None)
            if length is None:
                raise ValueError(f"A caption has {hidden.shape[1]} tokens, but {max(tokens)} were to hold every one.")
            hidden, mask = (
                F.pad(rows, (0, 0) * (rows.ndim - 2) + (0, length - rows.shape[1])) for rows in (hidden, mask)
            )
        return hidden.float() * mask[..., None], mask.long(), pooled.float()


def padded(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Ids [B, L] with zeros at the end, and lengths [B]. What comes later reaches nothing: attention is causal."""
    ids = nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
    return ids.to(DEVICE), torch.tensor([len(row) for row in rows], device=DEVICE)
