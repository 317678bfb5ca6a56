"""Sliding-tile attention at the true size: one call and a whole step, beside dense attention.

A window is computed in two ways, as the feature does: "in blocks" by ``flex_attention`` where that works, or "by
window" with a dense kernel. How much is computed stands beside the time, and so does what is over after the first call:
the kernel's self-test, the order of tokens, and compiling, for which every row starts with nothing compiled.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import ceil

import torch
from card import Card
from gpu_sampling import Result, Sampling, goals
from scale import Scale

from cases import Missing
from hyvideo_core.attention import resolve
from hyvideo_core.attention.sliding_tile import Tiling, attend_by_window
from hyvideo_core.attention.tile_blocks import (
    BLOCK,
    Flex,
    TileOrder,
    attend_in_blocks,
    compiled_flex,
    tile_order,
    why_not_in_blocks,
)
from hyvideo_core.extensions import SlidingTileAttention
from hyvideo_core.extensions.sliding_tile import FLEX_DEVICES
from hyvideo_core.sample.seams import WHOLE_RUN

#: How a window is computed.
IN_BLOCKS, BY_WINDOW = WAYS = ("in blocks", "by window")
#: Dense kernels that a call is compared with.
DENSE = ("auto", "sdpa", "sdpa_flash")


class Tiles:
    """Rows of sliding tiles, with the model and the attention calls of the rows of steps."""

    def __init__(self, card: Card, scale: Scale, sampling: Sampling) -> None:
        self._card, self._scale, self._sampling = card, scale, sampling

    def kernel(self, size: str, window: str, way: str) -> Result:
        """One row: a single attention call within a window, beside dense ones."""
        tiling = self._tiling(size, window)
        dense = {name: self._dense_seconds(size, name) for name in DENSE}
        self._sampling.release()
        with nothing_compiled():
            result = self._in_blocks(size, tiling) if way == IN_BLOCKS else self._by_window(size, tiling)
        compared = [
            f"dense {name} {found}"
            if isinstance(found, str)
            else f"{found / result['seconds']:.2f} × as fast as {name}"
            for name, found in dense.items()
        ]
        return result | {"beside_dense": ", ".join(compared)}

    def step(self, size: str, window: str) -> Result:
        """One row: a step in which every attention call is within a window, beside the dense step."""
        tiling = self._tiling(size, window)
        feature = SlidingTileAttention(when=WHOLE_RUN, tile=tiling.tile, window=tiling.window)
        held, plan = self._sampling.resident(size, feature)
        with nothing_compiled():
            why_not, self_test_s = self._self_test()
            first_s, *measured = self._sampling.steps(held, plan, [feature])
        seconds = statistics.median(measured)
        computed = (
            self._share_of_scores(tiling) if why_not else self._share_of_blocks(tiling, self._order(tiling, "cpu"))
        )
        result = self._sampling.result(plan, measured)
        # At once, so that the card is as warm.
        dense_s = statistics.median(self._sampling.steps(held, plan)[1:])
        return result | {
            "way": f"{BY_WINDOW}: {why_not}" if why_not else IN_BLOCKS,
            "computed": computed,
            "plain_s": round(dense_s, 3),
            "times_faster": round(dense_s / seconds, 2),
            "self_test_s": round(self_test_s, 2),
            "first_more_s": round(first_s - seconds, 2),
            "goals": goals(size, "bf16", None, False, result),
        }

    def _in_blocks(self, size: str, tiling: Tiling) -> Result:
        flex, self_test_s = compiled_flex, 0.0
        if self._card.is_real:
            why_not, self_test_s = self._self_test()
            if why_not:
                raise Missing(why_not)
        else:
            flex = _uncompiled_flex()
        orders: list[TileOrder] = []
        order_s = self._card.seconds(lambda: orders.append(self._order(tiling, self._card.device)))
        qkv = self._sampling.qkv(size)
        result = self._timed(lambda: attend_in_blocks(flex, qkv, orders[0]))
        blocks = _blocks(orders[0])
        return result | {
            "computed": self._share_of_blocks(tiling, orders[0]),
            "tflop_per_s": self._tflop_per_s(blocks * BLOCK**2, result["seconds"]),
            "self_test_s": round(self_test_s, 2),
            "order_s": round(order_s, 2),
        }

    def _by_window(self, size: str, tiling: Tiling) -> Result:
        attend = resolve("auto", self._card.device, torch.bfloat16, self._scale.dit.head_dim)
        qkv = self._sampling.qkv(size)
        result = self._timed(lambda: attend_by_window(attend, qkv, tiling))
        return result | {
            "computed": self._share_of_scores(tiling),
            "tflop_per_s": self._tflop_per_s(self._scores(tiling), result["seconds"]),
        }

    def _timed(self, call: Callable[[], torch.Tensor]) -> Result:
        with torch.inference_mode():
            first = self._card.seconds(call)
            self._card.reset_peak()
            seconds = statistics.median(self._card.seconds(call) for _ in range(self._scale.steps))
        return {"seconds": round(seconds, 4), "first_more_s": round(first - seconds, 2)} | self._sampling.peaks()

    def _self_test(self) -> tuple[str, float]:
        """Why the feature does not compute in blocks here, and the seconds it takes to find out."""
        device = self._card.device
        if device.type not in FLEX_DEVICES:
            return f"there is no fast flex_attention on {device.type}", 0.0
        why_not_in_blocks.cache_clear()
        found: list[str] = []
        test = (device, torch.bfloat16, self._scale.dit.head_dim)
        seconds = self._card.seconds(lambda: found.append(why_not_in_blocks(*test)))
        return found[0], seconds

    def _dense_seconds(self, size: str, name: str) -> float | str:
        """Of one dense call, or why there is none."""
        try:
            return self._sampling.kernel_seconds(size, name)
        except ValueError as error:
            return str(error)

    def _tiling(self, size: str, window: str) -> Tiling:
        sizes, patches = self._scale.sizes[size].latent_shape, self._scale.dit.patch_size
        t, h, w = (length // patch for length, patch in zip(sizes, patches, strict=True))
        tiling = Tiling((t, h, w), self._scale.tile, self._scale.windows[window])
        if tiling.is_dense:
            raise Missing(f"at {size} a window of {window} tiles spans the video, and nothing would be left out")
        return tiling

    def _order(self, tiling: Tiling, device: torch.device | str) -> TileOrder:
        return tile_order(tiling, self._scale.text_tokens, device)

    def _tokens(self, tiling: Tiling) -> int:
        return tiling.video_tokens + self._scale.text_tokens

    def _scores(self, tiling: Tiling) -> float:
        """Pairs of a query and a key within windows and of text."""
        video, text = tiling.video_tokens, self._scale.text_tokens
        return tiling.share * video**2 + 2 * video * text + text**2

    def _tflop_per_s(self, scores: float, seconds: float) -> float:
        return round(4 * scores * self._scale.dit.hidden_size / seconds / 1e12, 1)

    def _share_of_scores(self, tiling: Tiling) -> str:
        return f"{self._scores(tiling) / self._tokens(tiling) ** 2:.1%} of dense attention's scores"

    def _share_of_blocks(self, tiling: Tiling, order: TileOrder) -> str:
        """Blocks of queries and keys; those of dense attention without any fillers."""
        dense, blocks = ceil(self._tokens(tiling) / BLOCK) ** 2, _blocks(order)
        return (
            f"{blocks} blocks where dense attention has {dense} ({blocks / dense:.1%}), {tiling.share:.1%} of the video"
        )


def _blocks(order: TileOrder) -> int:
    """Blocks that are computed."""
    part, whole = order.mask.kv_num_blocks, order.mask.full_kv_num_blocks
    return int(part.sum()) + (0 if whole is None else int(whole.sum()))


def _uncompiled_flex() -> Flex:
    """What a rehearsal has instead of a kernel: all scores in memory."""
    from torch.nn.attention.flex_attention import flex_attention

    return flex_attention


@contextmanager
def nothing_compiled() -> Iterator[None]:
    """Within it nothing is compiled already, neither in this process nor on disk."""
    from torch._inductor import utils

    # Older versions of torch know it by a longer name.
    empty_folders = getattr(utils, "fresh_cache", None) or utils.fresh_inductor_cache
    torch.compiler.reset()
    with empty_folders():
        yield
