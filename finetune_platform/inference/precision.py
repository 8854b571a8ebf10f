"""Which number format the arithmetic runs in, and why: bfloat16 where the hardware multiplies it natively.

On a CPU with AMX or AVX512-BF16 bfloat16 matrix products are four times as fast as float32 ones; on one without
they are emulated and seven times slower (measured: 18 against 127 GFLOP/s on two AVX2 cores). A processor's name
does not tell, a product of two small matrices does.
"""

import time
from functools import lru_cache
from typing import Literal, NamedTuple

Dtype = Literal["bfloat16", "float32"]

PROBE_SIZE = 384
"""Rows and columns of the probed product: 0.1 GFLOP, a few milliseconds where it is native."""


class Precision(NamedTuple):
    """A number format and the reason for it, for a person."""

    dtype: Dtype
    reason: str


def choose_precision(requested: Literal["auto", "bfloat16", "float32"], device: str) -> Precision:
    """The number format to compute in.

    Args:
        requested: What the task file says; `auto` decides by the hardware.
        device: `cuda` or `cpu`.
    """
    if requested != "auto":
        return Precision(requested, "the task file says so")
    if device != "cpu":
        return Precision("bfloat16", f"{device} multiplies bfloat16 natively")
    bfloat16, float32 = gflops("bfloat16"), gflops("float32")
    rates = f"this CPU does {bfloat16:.0f} GFLOP/s in bfloat16 and {float32:.0f} in float32"
    return Precision("bfloat16" if bfloat16 > float32 else "float32", rates)


@lru_cache(maxsize=2)
def gflops(dtype: Dtype) -> float:
    """Billions of multiply-adds (two operations each) a second of one matrix product, the best of three."""
    import torch

    a = torch.ones(PROBE_SIZE, PROBE_SIZE, dtype=getattr(torch, dtype))
    torch.mm(a, a)
    best = float("inf")
    for _ in range(3):
        started = time.perf_counter()
        torch.mm(a, a)
        best = min(best, time.perf_counter() - started)
    return 2 * PROBE_SIZE**3 / best / 1e9
