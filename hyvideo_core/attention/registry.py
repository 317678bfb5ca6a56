"""Which attention kernels there are, which of them work here, and which one ``auto`` means.

``auto`` chooses among exact kernels only: a quantised one changes the picture, so it is used where it is named.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch

from hyvideo_core.attention import kernels, packages
from hyvideo_core.attention.kernels import AttentionKernel
from hyvideo_core.attention.self_test import find_fault

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Kernel:
    """A kernel by name.

    ``load`` returns the function, or raises where the kernel's package is absent or broken. ``quantisation_error`` is
    the relative error its quantisation may add to that of rounding; 0 marks an exact kernel. Beside q, k, v, its
    output and the log-sum-exps it takes ``copies`` times the memory of q, and ``working_bytes`` whatever their size.
    """

    name: str
    load: Callable[[], AttentionKernel]
    quantisation_error: float = 0.0
    copies: float = 0.0
    working_bytes: int = 0


#: Needs no self-test: torch tests it, and it is what everything falls back to.
PLAIN = "sdpa"

# Sage's allowances are one and a half to two times what the same quantisation costs in float32 arithmetic on the
# self-test's noise: 1.3 % for q and k in int8 (blocks of 128 and 64 tokens), 3.9 % with weights and values in float8
# e4m3 besides. A lost key, head or scale costs 20 % and more there.
#
# Copies. sage1: ``packages.sage1``. sage2, in the package's ``core.py`` and ``quant.py``: q and k in int8 (1), and for
# Hopper v padded to whole blocks (1), transposed (1) and in float8 (0.5); other cards need less. FlashAttention and
# torch's kernels read q, k, v where they lie.
KERNELS: dict[str, Kernel] = {
    kernel.name: kernel
    for kernel in (
        Kernel(PLAIN, lambda: kernels.sdpa),
        Kernel("sdpa_flash", lambda: kernels.sdpa_flash),
        Kernel("sdpa_cudnn", lambda: kernels.sdpa_cudnn),
        Kernel("sdpa_efficient", lambda: kernels.sdpa_efficient),
        Kernel("chunked", lambda: kernels.chunked, working_bytes=kernels.CHUNKED_BYTES),
        Kernel("flash2", packages.flash2),
        Kernel("flash3", packages.flash3),
        Kernel("sage1", packages.sage1, quantisation_error=0.025, copies=3.0),
        Kernel("sage2", packages.sage2, quantisation_error=0.06, copies=3.5),
    )
}

#: Largest relative error of a correct kernel by rounding alone. float32 leaves room for TF32, where a user allows it.
ROUNDING_ERROR = {torch.float32: 1e-3, torch.float16: 5e-3, torch.bfloat16: 2e-2}


@dataclass(frozen=True)
class Report:
    """What the self-test found of one kernel: ``ok``, and the ``reason`` where it is not.

    ``wrong`` tells a kernel that ran and gave wrong results from one that is absent or does not run here.
    """

    name: str
    ok: bool
    reason: str
    wrong: bool = False


def resolve(name: str, device: torch.device, dtype: torch.dtype, head_dim: int) -> AttentionKernel:
    """The kernel called ``name``, after it has passed its self-test with this device, dtype and head size.

    The same function object at every call. Raises ``ValueError`` for an unknown name and for a kernel that is absent
    or fails, with the reason.
    """
    if name == "auto":
        name = choose(device, dtype, head_dim)
    if name not in KERNELS:
        raise ValueError(f"attention is '{name}', but must be auto or one of {', '.join(KERNELS)}.")
    kernel = KERNELS[name]
    if name != PLAIN and not (report := _report(kernel, device, dtype, head_dim)).ok:
        raise ValueError(
            f"attention '{name}' cannot be used on {device} in {dtype} with head size {head_dim}: {report.reason}. "
            f"Choose auto or {PLAIN}."
        )
    return _load(kernel)


@cache
def choose(device: torch.device, dtype: torch.dtype, head_dim: int) -> str:
    """The name ``auto`` stands for; logged once, with the reason for each faster kernel that was refused."""
    refused = []
    for name in preferred(device.type, _capability(device)):
        report = _report(KERNELS[name], device, dtype, head_dim)
        if report.ok:
            break
        refused.append(f"; not {name}: {report.reason}")
    else:
        name = PLAIN
    logger.info("attention auto on %s in %s is %s%s", device, dtype, name, "".join(refused))
    return name


def preferred(device_type: str, capability: tuple[int, int] | None) -> tuple[str, ...]:
    """Exact kernels faster than plain SDPA on such a device, the fastest first.

    Hopper: FlashAttention 3, then cuDNN, 1.7 to 2.3 times as fast as torch's flash. Data-centre Blackwell: cuDNN.
    Elsewhere torch chooses: reports on cuDNN for Ampere, Ada and consumer Blackwell contradict each other.
    On a CPU the benchmarks of this repository found SDPA best.
    Source: nvidia-cosmos/cosmos-predict2 pull request 42, huggingface/transformers 48163, sgl-project/sglang 33655
    (B200), pytorch/pytorch 192799 (8.6 and 8.9).
    """
    if device_type != "cuda" or capability is None:
        return ()
    return {9: ("flash3", "sdpa_cudnn"), 10: ("sdpa_cudnn",)}.get(capability[0], ())


def available(
    device: torch.device | str = "cpu", dtype: torch.dtype = torch.bfloat16, head_dim: int = 128
) -> list[Report]:
    """A self-test of every kernel at the given head size against float32 attention."""
    return [_report(kernel, torch.device(device), dtype, head_dim) for kernel in KERNELS.values()]


def _capability(device: torch.device) -> tuple[int, int] | None:
    """An NVIDIA card's; AMD cards count their generations differently under the same name."""
    if device.type != "cuda" or torch.version.hip:
        return None
    return torch.cuda.get_device_capability(device)


@cache
def _load(kernel: Kernel) -> AttentionKernel:
    return kernel.load()


@cache
def _report(kernel: Kernel, device: torch.device, dtype: torch.dtype, head_dim: int) -> Report:
    try:
        attend = _load(kernel)
    except ModuleNotFoundError as problem:
        return Report(kernel.name, False, f"{problem.name} is not installed")
    except Exception as problem:  # a broken installation may raise anything
        return Report(kernel.name, False, f"cannot be imported: {problem!r}")
    tolerance = ROUNDING_ERROR[dtype] + kernel.quantisation_error
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        try:
            fault = find_fault(attend, device, dtype, head_dim, tolerance)
        except torch.OutOfMemoryError:
            raise  # says nothing about the kernel, and must not be remembered
        except Exception as problem:  # whatever a third party's kernel raises is a finding, not a crash
            why = [str(note.message).partition(" (Triggered")[0] for note in notes]
            return Report(kernel.name, False, " ".join([f"fails on {device.type} in {dtype}: {problem!r}", *why]))
    return Report(kernel.name, not fault, fault, wrong=bool(fault))
