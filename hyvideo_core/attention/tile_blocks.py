"""Sliding-tile attention by ``flex_attention``: tokens are put in the order of tiles, and blocks that no tile of
theirs sees are skipped.

Each tile is filled up to whole blocks, so that a block belongs to one tile and is seen whole or not at all, but for
fillers. A block seen in part costs more than one seen whole, and tiles that end anywhere make many of them: the reason
for sliding by tiles and not by tokens (arXiv 2502.04507 §3). For 720×1280×129 fillers are 3 % of the places.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import torch

from hyvideo_core.attention.kernels import sdpa
from hyvideo_core.attention.registry import ROUNDING_ERROR
from hyvideo_core.attention.sliding_tile import Tiling, attend_by_window

if TYPE_CHECKING:  # it comes with the compiler, and older versions of torch have none
    from torch.nn.attention.flex_attention import BlockMask

logger = logging.getLogger(__name__)

#: ``flex_attention`` or what was compiled of it: q, k, v [B, N, L, D] and ``block_mask`` → [B, N, L, D].
Flex = Callable[..., torch.Tensor]

#: Tokens in a block: the default, and what the kernels are made for.
BLOCK = 128
#: Graphs that may be compiled, one for each length and number of heads; torch's eight are soon used up by trying sizes.
MOST_GRAPHS = 200
#: What the kernel is tried on: whole blocks, blocks with fillers, skipped blocks, along every axis; and text.
SELF_TEST, SELF_TEST_TEXT = Tiling((5, 8, 20), (4, 4, 8), (1, 1, 2)), 7


@dataclass(frozen=True)
class TileOrder:
    """Tokens tile by tile, then text: P places hold L tokens and the fillers.

    ``source`` [P] is the token at each place, for a filler the first one of its tile; ``is_token`` [P] tells them
    apart; ``place`` [L] is where each token is; ``mask`` says which place attends to which.
    """

    source: torch.Tensor
    is_token: torch.Tensor
    place: torch.Tensor
    mask: BlockMask


def tile_order(tiling: Tiling, text_tokens: int, device: torch.device | str = "cpu", block: int = BLOCK) -> TileOrder:
    """The order for a length of text, at least 1. Nothing larger than (tokens / block)² is made."""
    tokens = torch.arange(tiling.video_tokens).view(tiling.grid)
    tiles = [tokens[box].flatten() for box in tiling.boxes()]
    tiles.append(tiling.video_tokens + torch.arange(text_tokens))
    sizes = torch.tensor([len(tile) for tile in tiles])
    filled = (sizes + block - 1) // block * block
    tile_of = torch.arange(len(tiles)).repeat_interleave(filled)
    within = torch.arange(len(tile_of)) - (filled.cumsum(0) - filled)[tile_of]
    is_token = within < sizes[tile_of]
    source = torch.cat(tiles)[(sizes.cumsum(0) - sizes)[tile_of] + within * is_token]
    place = torch.empty(tiling.video_tokens + text_tokens, dtype=torch.long)
    place[source[is_token]] = is_token.nonzero().flatten()
    source, is_token, place, tile_of, sees = (x.to(device) for x in (source, is_token, place, tile_of, tiling.sees()))
    return TileOrder(source, is_token, place, _block_mask(tile_of, is_token, sees, block))


def _block_mask(tile_of: torch.Tensor, is_token: torch.Tensor, sees: torch.Tensor, block: int) -> BlockMask:
    from torch.nn.attention.flex_attention import BlockMask

    def mask_mod(b: torch.Tensor, h: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return sees[tile_of[query], tile_of[key]] & is_token[key]

    blocks = tile_of[::block]
    seen = sees[blocks][:, blocks]
    whole = seen & is_token.view(-1, block).all(dim=1)
    return BlockMask.from_kv_blocks(*_listed(seen & ~whole), *_listed(whole), BLOCK_SIZE=block, mask_mod=mask_mod)


def _listed(blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """For each row how many blocks are set, and the numbers of all blocks, those that are set first."""
    numbers = blocks.int().argsort(dim=-1, descending=True, stable=True)
    return blocks.sum(dim=-1, dtype=torch.int32)[None, None], numbers.int()[None, None]


def attend_in_blocks(flex: Flex, qkv: Sequence[torch.Tensor], order: TileOrder) -> torch.Tensor:
    """Sliding-tile attention of q, k, v [B, L, N, D], sample by sample.

    Beside q, k, v it takes three copies and the output in the order of tiles, for one sample at a time; then that
    output and the one that is returned.
    """
    samples = []
    for sample in zip(*qkv, strict=True):
        tiled = [part.index_select(0, order.source).transpose(0, 1)[None] for part in sample]
        found = flex(*tiled, block_mask=order.mask)
        del tiled
        samples.append(found[0].transpose(0, 1).index_select(0, order.place))
        del found
    return samples[0][None] if len(samples) == 1 else torch.stack(samples)


def compiled_flex(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, block_mask: BlockMask) -> torch.Tensor:
    """``flex_attention``, compiled for each new shape; whatever the compiler raises passes through."""
    flex = _compiled()
    with torch._dynamo.config.patch(recompile_limit=MOST_GRAPHS):
        return flex(q, k, v, block_mask=block_mask)


@cache
def _compiled() -> Flex:
    from torch.nn.attention.flex_attention import flex_attention

    # With fullgraph too many graphs are an error. Without, torch would go on with all L² scores in memory.
    return torch.compile(flex_attention, dynamic=False, fullgraph=True)


@cache
def why_not_in_blocks(device: torch.device, dtype: torch.dtype, head_dim: int) -> str:
    """Why ``flex_attention`` cannot be used here, by trying it; empty where it can. A reason is logged, once."""
    shape = (3, 1, SELF_TEST.video_tokens + SELF_TEST_TEXT, 2, head_dim)
    inputs = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    try:
        order = tile_order(SELF_TEST, SELF_TEST_TEXT, device)
        found = attend_in_blocks(compiled_flex, inputs.to(device).unbind(0), order).float().cpu()
    except torch.OutOfMemoryError:
        raise  # says nothing about the kernel, and must not be remembered
    except Exception as problem:  # whatever compilers, drivers and their absence raise is a finding, not a crash
        said = str(problem).strip().splitlines() or [type(problem).__name__]
        reason = f"it fails on {device.type} in {dtype}: {said[0]}"
    else:
        exact = attend_by_window(sdpa, inputs.float().unbind(0), SELF_TEST)
        error = ((found - exact).norm() / exact.norm()).item()
        reason = "" if error <= ROUNDING_ERROR[dtype] else f"its result on {device.type} in {dtype} is {error:.1%} off"
    if reason:
        logger.warning("Sliding tiles are computed window by window, not by flex_attention: %s.", reason)
    return reason
