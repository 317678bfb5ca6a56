"""The whole transformer: embed → blocks → head.

Source: HunyuanVideo ``hyvideo/modules/models.py`` (HYVideoDiffusionTransformer).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from einops import rearrange
from torch import nn

from hyvideo_core.attention import AttentionKernel, resolve
from hyvideo_core.configs import DiTConfig
from hyvideo_core.model.blocks import Attention, DoubleBlock, SingleBlock, Stream
from hyvideo_core.model.compiling import CompileError, why_not_compile
from hyvideo_core.model.layers import PatchEmbed, ScalarEmbedder, VectorEmbedder, modulated_norm, token_chunks
from hyvideo_core.model.ragged import crop_text
from hyvideo_core.model.refiner import TokenRefiner
from hyvideo_core.model.rope import rope_table
from hyvideo_core.ops import Linear

#: Norms, projections and MLPs take at most this many tokens at a time, and at most this part of the sequence, so
#: that their activations stay small beside q, k and v.
CHUNK_TOKENS = 2048
CHUNK_PART = 4

RunBlocks = Callable[[Stream], None]
RunBlock = Callable[[nn.Module, Stream], None]
#: Tokens along (t, h, w), channels of each axis, θ, device → unit complex numbers [L, D/2] (``rope.rope_table``).
Rope = Callable[[tuple[int, int, int], tuple[int, int, int], float, torch.device], torch.Tensor]


def _run_block(block: nn.Module, stream: Stream) -> None:
    block(stream)


@dataclass(frozen=True)
class Seams:
    """Where a caller may step in: around all blocks, each block, a block's whole attention, each call of the
    attention kernel (one for each group of heads), and the table of positions.

    Each takes what would run and returns what shall run instead; the defaults change nothing.
    """

    blocks: Callable[[RunBlocks], RunBlocks] = lambda inner: inner
    block: Callable[[RunBlock], RunBlock] = lambda inner: inner
    attention: Callable[[Attention], Attention] = lambda inner: inner
    attend: Callable[[AttentionKernel], AttentionKernel] = lambda inner: inner
    rope: Callable[[Rope], Rope] = lambda inner: inner


NO_SEAMS = Seams()


class FinalLayer(nn.Module):
    """Tokens to patches. Its projection stays in float32, as in the original."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        patch_t, patch_h, patch_w = config.patch_size
        self.linear = Linear(config.hidden_size, patch_t * patch_h * patch_w * config.out_channels)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), Linear(config.hidden_size, 2 * config.hidden_size))

    def forward(self, tokens: torch.Tensor, vec: torch.Tensor, chunk_tokens: int) -> torch.Tensor:
        """[B, L, hidden] → [B, L, patch volume · channels] in float32."""
        shift, scale = self.adaLN_modulation(vec)[:, None].chunk(2, dim=-1)
        parts = [
            self.linear(modulated_norm(tokens[:, at].float(), shift, scale))
            for at in token_chunks(tokens.shape[1], chunk_tokens)
        ]
        return torch.cat(parts, dim=1)


class DiT(nn.Module):
    """Velocity of a noisy latent, given text.

    ``attention`` names a kernel (see ``hyvideo_core.attention``); ``chunk_tokens`` trades peak memory against
    the number of kernel launches, and so does ``head_groups``, a divisor of the heads: q, k and v exist for one
    group at a time. ``compile_blocks`` fuses what lies between the blocks' matrix products (``model.compiling``).
    All may be set at any time; none changes the result beyond rounding.
    """

    #: Parameters kept in float32 whatever the dtype of the rest.
    FLOAT32_PARAMETERS: ClassVar[tuple[str, ...]] = ("final_layer.linear",)

    def __init__(
        self,
        config: DiTConfig,
        *,
        attention: str = "auto",
        chunk_tokens: int = CHUNK_TOKENS,
        head_groups: int = 1,
        compile_blocks: bool = False,
    ) -> None:
        super().__init__()
        self.config, self.attention, self.chunk_tokens = config, attention, chunk_tokens
        self.head_groups, self.compile_blocks = head_groups, compile_blocks
        self.img_in = PatchEmbed(config.patch_size, config.in_channels, config.hidden_size)
        self.txt_in = TokenRefiner(config)
        self.time_in = ScalarEmbedder(config.hidden_size)
        self.vector_in = VectorEmbedder(config.pooled_dim, config.hidden_size)
        self.guidance_in = ScalarEmbedder(config.hidden_size) if config.guidance_embed else None
        self.double_blocks = nn.ModuleList(DoubleBlock(config) for _ in range(config.double_blocks))
        self.single_blocks = nn.ModuleList(SingleBlock(config) for _ in range(config.single_blocks))
        self.final_layer = FinalLayer(config)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype blocks compute in."""
        return self.img_in.proj.weight.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.img_in.proj.weight.device

    def forward(
        self,
        x: torch.Tensor,
        timestep: torch.Tensor,
        text: torch.Tensor,
        text_mask: torch.Tensor | None,
        pooled: torch.Tensor,
        guidance: torch.Tensor | None = None,
        *,
        token_replace: bool = False,
        seams: Seams = NO_SEAMS,
    ) -> torch.Tensor:
        """Velocity [B, out_channels, T, H, W] in float32.

        x [B, in_channels, T, H, W]; timestep [B] 0–1000; text [B, L, text_dim] with text_mask [B, L] (None: all
        valid); pooled [B, pooled_dim]; guidance [B] in the model's unit (scale·1000), needed by distilled
        checkpoints; one row of these serves all of x. ``token_replace`` says that frame 0 of x is the latent of a
        given image. Raises ``ValueError`` for shapes that do not fit, for missing guidance and for ``head_groups``
        that do not divide the heads, ``CompileError`` where blocks cannot be compiled.
        """
        check_inputs(self.config, x, timestep, text, text_mask, pooled, guidance)
        if self.head_groups < 1 or self.config.heads % self.head_groups:
            raise ValueError(f"head_groups is {self.head_groups}, but must divide the {self.config.heads} heads.")
        timestep, text, pooled = (_for_each(rows, len(x)) for rows in (timestep, text, pooled))
        text_mask, guidance = (rows if rows is None else _for_each(rows, len(x)) for rows in (text_mask, guidance))
        if self.compile_blocks and (reason := why_not_compile(x.device)):
            raise CompileError(f"The transformer's blocks cannot be compiled here: {reason} Or switch compiling off.")
        stream = self._embed(x, timestep, text, text_mask, pooled, guidance, seams)
        if token_replace:
            _, h, w = self._grid(x)
            # As if it had no noise left; and no guidance, since nothing is predicted for it.
            stream.clean_vec = self.time_in(torch.zeros_like(timestep)) + self.vector_in(pooled.to(self.dtype))
            stream.clean_tokens = h * w
        seams.blocks(partial(self._run_blocks, block_seam=seams.block))(stream)
        patches = self.final_layer(stream.video, stream.vec, stream.chunk_tokens)
        return self._unpatchify(patches, self._grid(x))

    def _embed(
        self,
        x: torch.Tensor,
        timestep: torch.Tensor,
        text: torch.Tensor,
        text_mask: torch.Tensor | None,
        pooled: torch.Tensor,
        guidance: torch.Tensor | None,
        seams: Seams,
    ) -> Stream:
        attend = resolve(self.attention, x.device, self.dtype, self.config.head_dim)
        text, text_lengths = crop_text(text.to(self.dtype), text_mask)
        vec = self.time_in(timestep) + self.vector_in(pooled.to(self.dtype))
        if self.guidance_in is not None and guidance is not None:
            vec = vec + self.guidance_in(guidance)
        video = self.img_in(x)
        refined = self.txt_in(text, timestep, text_lengths, attend)
        return Stream(
            tokens=torch.cat((video, refined), dim=1),
            video_tokens=video.shape[1],
            lengths=tuple(video.shape[1] + n for n in text_lengths),
            vec=vec,
            rope=seams.rope(rope_table)(self._grid(x), self.config.rope_dims, self.config.rope_theta, x.device),
            attend=seams.attend(attend),
            chunk_tokens=max(1, min(self.chunk_tokens, video.shape[1] // CHUNK_PART)),
            head_groups=self.head_groups,
            compile=self.compile_blocks,
            around_attention=seams.attention,
        )

    def _run_blocks(self, stream: Stream, block_seam: Callable[[RunBlock], RunBlock]) -> None:
        run = block_seam(_run_block)
        for block in (*self.double_blocks, *self.single_blocks):
            run(block, stream)

    def _grid(self, x: torch.Tensor) -> tuple[int, int, int]:
        """Tokens along (t, h, w)."""
        t, h, w = (size // patch for size, patch in zip(x.shape[2:], self.config.patch_size, strict=True))
        return t, h, w

    def _unpatchify(self, patches: torch.Tensor, grid: tuple[int, int, int]) -> torch.Tensor:
        t, h, w = grid
        pt, ph, pw = self.config.patch_size
        return rearrange(
            patches,
            "B (t h w) (C pt ph pw) -> B C (t pt) (h ph) (w pw)",
            t=t, h=h, w=w, pt=pt, ph=ph, pw=pw,
        )  # fmt: skip


def _for_each(rows: torch.Tensor, batch: int) -> torch.Tensor:
    """A row for each of ``batch`` samples; one row serves all."""
    return rows.expand(batch, *rows.shape[1:])


def check_inputs(
    config: DiTConfig,
    x: torch.Tensor,
    timestep: torch.Tensor,
    text: torch.Tensor,
    text_mask: torch.Tensor | None,
    pooled: torch.Tensor,
    guidance: torch.Tensor | None,
) -> None:
    """Raise ``ValueError`` for arguments of ``DiT.forward`` that do not fit the configuration or each other."""
    if x.ndim != 5:
        raise ValueError(f"latent has shape {list(x.shape)}, but [B, C, T, H, W] is needed.")
    if text_mask is not None and text_mask.shape != text.shape[:2]:
        raise ValueError(
            f"text mask has shape {list(text_mask.shape)}, but the text has {list(text.shape[:2])}. "
            "Encode the prompt again, or leave the mask out."
        )
    for name, found, expected in (
        ("latent channels", x.shape[1], config.in_channels),
        ("text width", text.shape[-1], config.text_dim),
        ("pooled text width", pooled.shape[-1], config.pooled_dim),
    ):
        if found != expected:
            raise ValueError(
                f"{name}: got {found}, but this checkpoint expects {expected}. "
                "Use the latent and text encoders that belong to it."
            )
    if any(size % patch for size, patch in zip(x.shape[2:], config.patch_size, strict=True)):
        raise ValueError(
            f"latent size {list(x.shape[2:])} is not a multiple of the patch {list(config.patch_size)}. "
            "Use widths and heights that are multiples of 16 px."
        )
    if config.guidance_embed and guidance is None:
        raise ValueError("This checkpoint is guidance-distilled and needs an embedded guidance (default 6).")
    for name, rows in (("timestep", timestep), ("text", text), ("pooled text", pooled), ("guidance", guidance)):
        if rows is not None and (rows.ndim == 0 or len(rows) not in (1, len(x))):
            raise ValueError(
                f"{name} has shape {list(rows.shape)}, but needs a row for each of {len(x)} latents, or one."
            )
