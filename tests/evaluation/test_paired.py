"""Paired binary outcomes against published examples, scipy and brute force."""

from itertools import product

import numpy as np
import pytest
from scipy import stats

from finetune_platform.evaluation.paired import mcnemar, tango


def singles(wins: int, losses: int) -> np.ndarray:
    return np.array([1] * wins + [-1] * losses)


def test_airway_hyper_responsiveness_data() -> None:
    """Bentur et al. 2009: 1 and 7 discordant of 21 pairs; figures as in Fagerland, Lydersen & Laake 2013 and 2014."""
    assert mcnemar(singles(1, 7)) == pytest.approx(0.0391, abs=5e-5)
    assert mcnemar(singles(1, 7), mid_p=False) == pytest.approx(0.0703, abs=5e-5)
    assert tango(1, 7, 21, 0.05) == pytest.approx((-0.517, -0.026), abs=5e-4)


@pytest.mark.parametrize(("wins", "losses"), [(3, 9), (0, 5), (20, 20), (101, 60), (0, 0)])
def test_the_exact_test_is_the_binomial_one(wins: int, losses: int) -> None:
    expected = stats.binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
    assert mcnemar(singles(wins, losses), mid_p=False) == pytest.approx(expected)


def test_near_duplicates_flip_together() -> None:
    by_group = np.array([3, -1, 2, 1, 0, 1])
    totals = [abs(sum(s * w for s, w in zip(signs, by_group, strict=True))) for signs in product((1, -1), repeat=6)]
    observed = abs(by_group.sum())
    expected = np.mean([t > observed for t in totals]) + np.mean([t == observed for t in totals])
    assert mcnemar(by_group, mid_p=False) == pytest.approx(expected)
    assert mcnemar(by_group, mid_p=False) > mcnemar(singles(7, 1), mid_p=False)


@pytest.mark.parametrize(("wins", "losses"), [(30, 12), (25, 14), (24, 15), (10, 3), (8, 4)])
def test_the_interval_excludes_zero_exactly_when_the_score_test_rejects(wins: int, losses: int) -> None:
    rejected = (wins - losses) ** 2 / (wins + losses) > stats.chi2.isf(0.05, 1)
    assert (tango(wins, losses, 200, 0.05).lower > 0) == rejected


def test_no_discordant_row_leaves_an_honest_interval() -> None:
    lower, upper = tango(0, 0, 100, 0.05)
    assert lower == pytest.approx(-upper)
    assert upper == pytest.approx(3.84 / 103.84, abs=1e-3)


def test_all_or_nothing_stays_inside_the_possible() -> None:
    assert tango(50, 0, 50, 0.05).upper == 1.0
    assert tango(0, 50, 50, 0.05).lower == -1.0


def test_swapping_the_arms_mirrors_the_interval() -> None:
    lower, upper = tango(17, 5, 90, 0.05)
    assert tango(5, 17, 90, 0.05) == pytest.approx((-upper, -lower))
