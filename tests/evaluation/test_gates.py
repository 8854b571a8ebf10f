"""What gates decide, and what they say when they cannot."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from scipy import stats

from finetune_platform.evaluation.gates import decide, overall_verdict
from finetune_platform.evaluation.intervals import proportion
from finetune_platform.evaluation.metrics import Metric, Part
from finetune_platform.evaluation.power import effect_of_pairs, effect_of_proportion
from finetune_platform.evaluation.scores import Scores
from finetune_platform.manifests import GateResult
from finetune_platform.task import Gate


def _scored(answer: str, gold: str) -> Part:
    return Part(float(answer), 1.0)


METRICS = {
    "exact_match": Metric("exact_match", "exact match", "", True, _scored, "1"),
    "token_f1": Metric("token_f1", "token F1", "", False, _scored, "1"),
}


def run(gate: dict[str, Any], candidate: Sequence[float], reference: Sequence[float] | None = None) -> GateResult:
    """One gate over rows with these scores, in every metric alike."""
    arms = [candidate] if reference is None else [candidate, reference]
    numerators = np.repeat(np.array(arms, dtype=float).T[:, :, None], 2, axis=2)
    rows = len(candidate)
    scores = Scores(
        METRICS,
        ("candidate", "prompted")[: len(arms)],
        numerators,
        np.ones_like(numerators),
        np.ones((rows, 2)),
        np.array([str(i) for i in range(rows)]),
        {"task_type": np.array(["a"] * rows), "difficulty": np.array([""] * rows)},
    )
    parsed = Gate.model_validate(gate)
    return decide(parsed, scores.part(parsed.slice), {"champion": "there is no champion yet"}, {"few_shot": "away"})


def share(ones: int, rows: int) -> list[float]:
    return [1.0] * ones + [0.0] * (rows - ones)


@pytest.mark.parametrize("metric", ["exact_match", "token_f1"])
@pytest.mark.parametrize(("ones", "verdict"), [(95, "pass"), (82, "inconclusive"), (50, "fail")])
def test_a_threshold_is_met_by_the_whole_interval(metric: str, ones: int, verdict: str) -> None:
    result = run({"metric": metric, "threshold": 0.8}, share(ones, 100))
    assert result.verdict == verdict
    assert (result.observed, result.n, result.limit) == (ones / 100, 100, 0.8)
    assert result.lower is not None and result.upper is not None
    assert result.lower < ones / 100 < result.upper


@pytest.mark.parametrize("metric", ["exact_match", "token_f1"])
@pytest.mark.parametrize(("ones", "verdict"), [(5, "pass"), (18, "inconclusive"), (50, "fail")])
def test_lower_is_better_turns_the_gate_round(metric: str, ones: int, verdict: str) -> None:
    assert run({"metric": metric, "threshold": 0.2, "direction": "lower"}, share(ones, 100)).verdict == verdict


@pytest.mark.parametrize("metric", ["exact_match", "token_f1"])
@pytest.mark.parametrize(
    ("candidate", "margin", "verdict"),
    [(90, 0.0, "pass"), (63, 0.0, "inconclusive"), (59, 0.12, "pass"), (30, 0.0, "fail"), (30, 0.05, "fail")],
)
def test_a_regression_is_judged_by_the_paired_difference(
    metric: str, candidate: int, margin: float, verdict: str
) -> None:
    gate = {"metric": metric, "max_regression_vs": "prompted", "margin": margin}
    result = run(gate, share(candidate, 100), share(60, 100))
    assert result.verdict == verdict
    assert result.observed == pytest.approx(candidate / 100 - 0.6)
    assert result.limit == -margin


def test_for_lower_is_better_a_regression_is_a_rise() -> None:
    gate = {"metric": "exact_match", "max_regression_vs": "prompted", "direction": "lower"}
    assert run(gate, share(30, 100), share(60, 100)).verdict == "pass"
    assert run(gate, share(90, 100), share(60, 100)).verdict == "fail"


def test_pairing_sees_what_separate_intervals_cannot() -> None:
    candidate, reference = share(60, 100), share(50, 100)
    alone = proportion(60, 100, 0.05), proportion(50, 100, 0.05)
    assert alone[0].lower < alone[1].upper
    result = run({"metric": "exact_match", "max_regression_vs": "prompted"}, candidate, reference)
    assert result.verdict == "pass"
    assert "McNemar mid-p" in result.reason


def test_a_reference_that_does_not_exist_skips_the_gate_and_says_so() -> None:
    result = run({"metric": "exact_match", "max_regression_vs": "champion"}, share(9, 100))
    assert (result.verdict, result.reason) == ("skipped", "there is no champion yet")


def test_a_reference_that_could_not_be_measured_leaves_it_open() -> None:
    assert run({"metric": "exact_match", "max_regression_vs": "few_shot"}, share(9, 100)).verdict == "inconclusive"


def test_too_few_rows_are_told_with_the_number_needed() -> None:
    result = run({"metric": "exact_match", "threshold": 0.1, "min_n": 50}, share(40, 40))
    assert result.verdict == "inconclusive"
    assert "40 rows" in result.reason and "50 are needed" in result.reason


def test_a_slice_without_rows_is_open() -> None:
    result = run({"metric": "exact_match", "threshold": 0.1, "slice": "task_type=b"}, share(40, 40))
    assert (result.verdict, result.reason) == ("inconclusive", "no row has task_type=b")


@pytest.mark.parametrize(("rows", "verdict"), [(149, "inconclusive"), (150, "pass")])
def test_none_of_150_shows_two_percent_and_fewer_say_how_many_it_takes(rows: int, verdict: str) -> None:
    result = run({"metric": "exact_match", "threshold": 0.02, "direction": "lower"}, share(0, rows))
    assert result.verdict == verdict
    assert ("150 rows without an exception" in result.reason) == (verdict == "inconclusive")


def test_an_open_gate_says_how_many_rows_would_close_it() -> None:
    result = run({"metric": "token_f1", "threshold": 0.8}, share(170, 200))
    assert result.verdict == "inconclusive"
    rows = int(result.reason.split("about ")[1].split(" rows")[0].replace(",", ""))
    assert 200 < rows < 2000
    assert run({"metric": "token_f1", "threshold": 0.8}, share(round(0.85 * rows), rows)).verdict == "pass"


def test_identical_arms_never_pass_a_gate_that_asks_for_better() -> None:
    result = run({"metric": "token_f1", "max_regression_vs": "prompted"}, share(50, 100), share(50, 100))
    assert result.verdict == "inconclusive"
    assert (
        run(
            {"metric": "token_f1", "max_regression_vs": "prompted", "margin": 0.05}, share(50, 100), share(50, 100)
        ).verdict
        == "pass"
    )


def test_the_effect_of_a_threshold_has_the_promised_power_exactly() -> None:
    effect = effect_of_proportion(0.8, 100, 0.05, higher=True)
    assert effect is not None
    passing = [k for k in range(101) if proportion(k, 100, 0.05).lower >= 0.8]
    assert stats.binom.pmf(passing, 100, 0.8 + effect).sum() == pytest.approx(0.8, abs=1e-6)
    assert effect_of_proportion(0.2, 100, 0.05, higher=False) == pytest.approx(effect)


def test_a_threshold_out_of_reach_of_so_few_rows_has_no_effect() -> None:
    assert effect_of_proportion(0.99, 50, 0.05, higher=True) is None
    assert run({"metric": "exact_match", "threshold": 0.99}, share(50, 50)).minimum_detectable_effect is None


def test_connors_formula_turned_round() -> None:
    effect = effect_of_pairs(0.3, 230, 0.05)
    assert effect is not None
    z_alpha, z_power = stats.norm.isf(0.025), stats.norm.isf(0.2)
    rows = ((z_alpha * np.sqrt(0.3) + z_power * np.sqrt(0.3 - effect**2)) / effect) ** 2
    assert rows == pytest.approx(230)


@pytest.mark.parametrize(
    ("verdicts", "overall"),
    [
        (["pass", "pass"], "pass"),
        (["pass", "skipped"], "pass"),
        ([], "pass"),
        (["pass", "inconclusive"], "inconclusive"),
        (["inconclusive", "fail"], "fail"),
    ],
)
def test_the_verdict_needs_every_hard_gate(verdicts: list[str], overall: str) -> None:
    template = run({"metric": "exact_match", "threshold": 0.5}, share(50, 50))
    results = [template.model_copy(update={"verdict": v}) for v in verdicts]
    warning = template.model_copy(update={"verdict": "fail", "tier": "warn"})
    assert overall_verdict([*results, warning]) == overall
