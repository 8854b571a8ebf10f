"""Bets on a set of cells: quiet while the mix is the reference's, found where some cells become more frequent."""

import numpy as np

from finetune_platform.drift.cell_evidence import CellNull
from finetune_platform.drift.null_bounds import Floats

CELLS = 60


def truth(rng: np.random.Generator) -> Floats:
    return rng.dirichlet(np.full(CELLS, 3.0))


def null_of(mix: Floats, rng: np.random.Generator, half: int = 2500) -> CellNull:
    return CellNull.of(rng.multinomial(half, mix), rng.multinomial(half, mix), 0.01)


def first_alarm(
    null: CellNull, mix: Floats, rng: np.random.Generator, rows: int, ticks: int, limit: float
) -> int | None:
    evidence = null.begin()
    for number in range(1, ticks + 1):
        evidence = null.bet(evidence, rng.choice(CELLS, rows, p=mix))
        if evidence.e_value >= limit:
            return number
    return None


def test_some_cells_three_times_as_frequent_are_found_in_a_few_ticks() -> None:
    delays = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        mix = truth(rng)
        null = null_of(mix, rng)
        more = np.where(np.arange(CELLS) < 8, 3.0, 1.0) * mix
        delays.append(first_alarm(null, more / more.sum(), rng, 200, 30, 365.0) or 31)
    assert np.median(delays) <= 4


def test_years_of_the_same_mix_are_quiet() -> None:
    for seed in range(10):
        rng = np.random.default_rng(seed)
        mix = truth(rng)
        assert first_alarm(null_of(mix, rng), mix, rng, 200, 365, 365.0) is None


def test_a_small_reference_is_slower_instead_of_wrong() -> None:
    for seed in range(10):
        rng = np.random.default_rng(seed)
        mix = truth(rng)
        assert first_alarm(null_of(mix, rng, half=150), mix, rng, 200, 200, 365.0) is None


def test_the_cells_that_grew_are_named() -> None:
    rng = np.random.default_rng(0)
    mix = np.full(CELLS, 1 / CELLS)
    null = null_of(mix, rng)
    known = np.full(CELLS, 20.0)
    known[[3, 7]] = 120.0
    assert np.flatnonzero(null.exceeding(known)).tolist() == [3, 7]
