"""The verdict in one sentence that a manager understands.

Numbers come from `scores.py`, verdicts from `gates.py`; this file only finds the words.
"""

import math
from collections.abc import Mapping, Sequence

from finetune_platform.evaluation.arms import PROMPTS, Arm
from finetune_platform.evaluation.gates import CANDIDATE
from finetune_platform.evaluation.scores import ALL, Scores
from finetune_platform.manifests import GateResult, Verdict
from finetune_platform.task import Gate

OPENINGS: Mapping[Verdict, str] = {
    "pass": "Register",
    "fail": "Do not register",
    "inconclusive": "Not decided",
    "skipped": "Register",
}


def headline(
    verdict: Verdict, gates: Sequence[GateResult], scores: Scores, primary_metric: str, arms: Mapping[str, Arm]
) -> str:
    """Such as "Register: the adapter's entity F1 is 0.71, 0.52 above the best prompt".

    Args:
        verdict: Of all gates.
        gates: In the order of the task file.
        scores: Of the first benchmark.
        primary_metric: What a pass is told by.
        arms: By name.
    """
    if verdict in ("pass", "skipped"):
        return f"{OPENINGS[verdict]}: {_standing(scores, primary_metric)}{_caveat(gates)}"
    decisive = [g for g in gates if g.tier == "hard" and g.verdict == verdict]
    more = f" (and {len(decisive) - 1} more of {len(gates)} gates)" if len(decisive) > 1 else ""
    return f"{OPENINGS[verdict]}: {_finding(decisive[0], scores, arms)}{more}"


def condition(gate: Gate, scores: Scores, arms: Mapping[str, Arm]) -> str:
    """What a gate asks for, in words: "entity F1 not below the champion by 0.03 or more"."""
    title = scores.metrics[gate.metric].title
    where = _where(gate.slice)
    if gate.threshold is not None:
        return f"{title}{where} {'at least' if gate.direction == 'higher' else 'at most'} {gate.threshold:g}"
    reference = _phrase(str(gate.max_regression_vs), arms)
    worse = "above" if gate.direction == "higher" else "below"
    if gate.margin == 0:
        return f"{title}{where} {worse} {reference}"
    side = "below" if gate.direction == "higher" else "above"
    return f"{title}{where} less than {gate.margin:g} {side} {reference}"


def _standing(scores: Scores, metric: str) -> str:
    whole, title = scores.part(ALL), scores.metrics[metric].title
    value = whole.value(CANDIDATE, metric)
    if math.isnan(value):
        return f"the test rows have nothing for {title} to measure"
    said = f"the adapter's {title} is {value:.2f}"
    prompt = whole.best([name for name in PROMPTS if name in scores.arms], metric)
    for name, phrase in ((prompt, "the best prompt"), ("champion", "the champion")):
        if name in scores.arms:
            said += f", {_apart(value - whole.value(str(name), metric))} {phrase}"
    return said


def _finding(gate: GateResult, scores: Scores, arms: Mapping[str, Arm]) -> str:
    title = scores.metrics[gate.metric].title
    where = _where(gate.slice)
    if gate.observed is None:
        return f"{title}{where} could not be compared: {gate.reason}"
    if gate.versus is None:
        found = f"{title}{where} is {gate.observed:.2f} where {gate.limit:g} is the limit"
    else:
        value = scores.part(gate.slice).value(CANDIDATE, gate.metric)
        found = f"{title}{where} is {value:.2f}, {_apart(gate.observed)} {_phrase(gate.versus, arms)}"
    if gate.verdict == "fail":
        return found
    return f"{found}, which {gate.n} rows do not settle: {gate.reason.rpartition('; ')[2]}"


def _where(slice_name: str) -> str:
    """` on no entities rows` for `task_type=no_entities`."""
    return "" if slice_name == ALL else f" on {slice_name.partition('=')[2].replace('_', ' ')} rows"


def _apart(difference: float) -> str:
    if round(abs(difference), 2) == 0:
        return "level with"
    return f"{abs(difference):.2f} {'above' if difference > 0 else 'below'}"


def _phrase(arm: str, arms: Mapping[str, Arm]) -> str:
    return arms[arm].phrase if arm in arms else f"the {arm}"


def _caveat(gates: Sequence[GateResult]) -> str:
    hard = [g for g in gates if g.tier == "hard"]
    if not hard:
        return "; the task has no hard gate, so nothing was required of it"
    warnings = [g for g in gates if g.tier == "warn" and g.verdict != "pass"]
    return f"; {len(warnings)} warning{'s' if len(warnings) != 1 else ''}" if warnings else ""
