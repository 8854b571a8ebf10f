"""Gates: what the evidence says about one condition of the task file, and about all of them.

A gate passes when the whole two-sided interval lies on the good side of its limit, fails when it lies on the bad side,
and is inconclusive else: more rows could decide it. All hard gates must pass, so no correction for their number is
needed (intersection-union test, Berger 1982, Technometrics 24:295). The estimates come from `scores.py`.
"""

import math
from collections.abc import Mapping, Sequence

from finetune_platform.evaluation.intervals import rows_for_zero_count
from finetune_platform.evaluation.power import (
    effect_of_difference,
    effect_of_level,
    effect_of_pairs,
    effect_of_proportion,
)
from finetune_platform.evaluation.scores import Estimate, Scores, ScoreSlice
from finetune_platform.manifests import GateResult, Verdict
from finetune_platform.task import Gate

CANDIDATE = "candidate"

WORTH_ASKING = 100
"""An answer that would take this many times the rows is not proposed."""


def decide_all(
    gates: Sequence[Gate], scores: Scores, absent: Mapping[str, str], blocked: Mapping[str, str]
) -> list[GateResult]:
    """The outcome of every gate.

    Args:
        gates: From the task file.
        scores: Of the task's first benchmark.
        absent: References that do not exist, with the reason: gates against them are skipped.
        blocked: References that exist and could not be measured, with the reason: such gates are inconclusive.
    """
    slices = {name: scores.part(name) for name in {g.slice for g in gates}}
    return [decide(gate, slices[gate.slice], absent, blocked) for gate in gates]


def decide(gate: Gate, part: ScoreSlice, absent: Mapping[str, str], blocked: Mapping[str, str]) -> GateResult:
    """The outcome of one gate on the rows of its slice.

    Args:
        gate: From the task file.
        part: The rows of `gate.slice`.
        absent: As for `decide_all`.
        blocked: As for `decide_all`.
    """
    reference = gate.max_regression_vs
    if reference is not None and reference in absent:
        return _result(gate, "skipped", absent[reference], part.rows)
    if reference is not None and reference in blocked:
        return _result(gate, "inconclusive", blocked[reference], part.rows)
    if part.rows == 0:
        return _result(gate, "inconclusive", f"no row has {gate.slice}", 0)
    if reference is None:
        estimate = part.level(CANDIDATE, gate.metric, gate.alpha)
    else:
        estimate = part.difference(CANDIDATE, reference, gate.metric, gate.alpha)
    if not estimate.defined:
        return _result(gate, "inconclusive", "no row of this slice has anything for the metric to find", part.rows)
    binary = part.scores.metrics[gate.metric].binary
    effect = detectable_effect(gate, estimate, binary)
    verdict, reason = _judge(gate, estimate, part.rows)
    return _result(gate, verdict, reason, part.rows, estimate, effect)


def gate_name(gate: Gate) -> str:
    """What a gate is called: `entity_f1 vs champion`, `exact_match [task_type=refund]`."""
    against = f" vs {gate.max_regression_vs}" if gate.max_regression_vs else ""
    where = "" if gate.slice == "all" else f" [{gate.slice}]"
    return f"{gate.metric}{against}{where}"


def limit_of(gate: Gate) -> float:
    """What the interval is compared with: the threshold, or how far the difference may lie on the bad side."""
    if gate.threshold is not None:
        return gate.threshold
    return (-gate.margin if gate.direction == "higher" else gate.margin) or 0.0  # never −0.0


def detectable_effect(gate: Gate, estimate: Estimate, binary: bool) -> float | None:
    """Smallest true distance from the limit that this gate, with these rows, passes with power 0.8.

    Returns:
        None where none would.
    """
    if gate.threshold is not None and binary:
        return effect_of_proportion(gate.threshold, estimate.effective, gate.alpha, gate.direction == "higher")
    if estimate.discordance is not None:
        return effect_of_pairs(estimate.discordance, estimate.effective, gate.alpha)
    if estimate.standard_error == 0:
        # Nothing varied, so nothing tells the spread: differences of a bounded score spread least when 0 or 1.
        return effect_of_pairs(0.0, estimate.effective, gate.alpha)
    return _continuous_effect(gate, estimate)


def _continuous_effect(gate: Gate, estimate: Estimate) -> float:
    end = estimate.lower if gate.direction == "higher" else estimate.upper
    if gate.threshold is not None:
        return effect_of_level(estimate.value, end, estimate.standard_error)
    return effect_of_difference(abs(estimate.value - end), estimate.standard_error)


def overall_verdict(results: Sequence[GateResult]) -> Verdict:
    """`fail` if a hard gate fails, else `inconclusive` if one is, else `pass` (skipped gates do not count)."""
    verdicts = {r.verdict for r in results if r.tier == "hard"}
    if "fail" in verdicts:
        return "fail"
    return "inconclusive" if "inconclusive" in verdicts else "pass"


def _judge(gate: Gate, estimate: Estimate, rows: int) -> tuple[Verdict, str]:
    if estimate.groups < gate.min_n:
        # Near-duplicates, and rows with nothing to find and nothing claimed, are no independent evidence.
        return "inconclusive", f"{estimate.groups} of the {rows} rows are independent evidence, {gate.min_n} are needed"
    limit, sign = limit_of(gate), 1 if gate.direction == "higher" else -1
    worst, best = sorted((sign * estimate.lower, sign * estimate.upper))
    against = sign * limit
    # A difference must exceed its limit, a threshold may be met exactly ("<= 0.02").
    if worst > against or (gate.threshold is not None and worst >= against - 1e-12):
        return "pass", _evidence(estimate)
    if best < against:
        return "fail", _evidence(estimate)
    return "inconclusive", f"{_evidence(estimate)}; {_rows_wanted(gate, estimate, limit, rows)}"


def _evidence(estimate: Estimate) -> str:
    p_value = "" if estimate.p_value is None else f", McNemar mid-p {_p(estimate.p_value)}"
    return f"{estimate.method} interval{p_value}"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"= {value:.3f}"


def _rows_wanted(gate: Gate, estimate: Estimate, limit: float, rows: int) -> str:
    """How many rows would probably decide, if what was observed is true."""
    away = abs(estimate.value - limit)
    if estimate.method == "rule of three" and gate.threshold is not None:
        room = limit if estimate.value == 0 else 1 - limit
        if room > 0:
            return f"{rows_for_zero_count(room, gate.alpha)} rows without an exception would decide"
    if away > 0 and math.isfinite(estimate.standard_error):
        factor = (_continuous_effect(gate, estimate) / away) ** 2
        if 1 < factor <= WORTH_ASKING:
            return f"about {math.ceil(rows * factor):,} rows would decide if this is the true value"
    return "too close to the limit for any practical number of rows to decide"


def _result(
    gate: Gate, verdict: Verdict, reason: str, rows: int, estimate: Estimate | None = None, effect: float | None = None
) -> GateResult:
    return GateResult(
        name=gate_name(gate),
        metric=gate.metric,
        slice=gate.slice,
        tier=gate.tier,
        verdict=verdict,
        versus=gate.max_regression_vs,
        limit=limit_of(gate),
        observed=estimate.value if estimate else None,
        lower=estimate.lower if estimate else None,
        upper=estimate.upper if estimate else None,
        n=rows,
        minimum_detectable_effect=effect,
        reason=reason,
    )
