"""The number format follows the task file, else the hardware, and says why."""

import time

import torch

from finetune_platform.inference.precision import choose_precision


def test_the_task_file_decides_where_it_says_so() -> None:
    assert choose_precision("float32", "cuda").dtype == "float32"
    assert choose_precision("bfloat16", "cpu").dtype == "bfloat16"


def test_a_gpu_computes_in_bfloat16() -> None:
    assert choose_precision("auto", "cuda").dtype == "bfloat16"


def test_a_cpu_gets_the_format_that_it_multiplies_faster() -> None:
    chosen = choose_precision("auto", "cpu")
    assert "GFLOP/s" in chosen.reason

    def seconds(dtype: torch.dtype) -> float:
        a = torch.ones(512, 512, dtype=dtype)
        best = float("inf")
        for _ in range(4):
            started = time.perf_counter()
            torch.mm(a, a)
            best = min(best, time.perf_counter() - started)
        return best

    ratio = seconds(torch.bfloat16) / seconds(torch.float32)
    if ratio > 2 or ratio < 0.5:  # In between, noise may decide either way.
        assert chosen.dtype == ("float32" if ratio > 2 else "bfloat16")
