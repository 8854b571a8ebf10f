"""The page's panels as HTML: what `board.py` knows, in the words of `verdicts.py` and on the scales of `scales.py`."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from finetune_platform.serving.page import scales
from finetune_platform.serving.page.board import Look
from finetune_platform.serving.page.fragments import fragment
from finetune_platform.serving.page.plots import Span, plots_of
from finetune_platform.serving.page.verdicts import Verdict, verdict_of
from finetune_platform.serving.plan import ARMS, BASE, Plan
from finetune_platform.serving.routes import shares_of

HISTORY_ROWS = 30

ROWS = (
    ("Requests", "requests", "count"),
    ("Errors", "error_rate", "percent"),
    ("Wrong format", "invalid_format_rate", "percent"),
    ("Refusals", "refusal_rate", "percent"),
    ("Bad ratings", "negative_feedback_rate", "percent"),
    ("Latency p50", "latency_p50_ms", "ms"),
    ("Latency p95", "latency_p95_ms", "ms"),
)


def panels_of(look: Look, away: bool) -> dict[str, str]:
    """A task's panels by their names, without its plots.

    Args:
        look: The task.
        away: Whether the database does not answer.
    """
    return {
        "verdict": _verdict(look, verdict_of(look.plan, look.rollout, away=away)),
        "rollout": _rollout(look),
        "guardrails": fragment("guardrails", rails=scales.rails_of(look.rollout)) if look.rollout else "",
        "arms": _arms(look),
        "history": _history(look.history),
    }


def plots_panel(look: Look, span: Span, now: datetime) -> str:
    """Traffic and latency over the time before `now`."""
    return fragment("plots", plots=plots_of(look.traffic, look.history, span, now), read=look.at is not None)


def task_list(verdicts: Mapping[str, Verdict], chosen: str) -> str:
    """Every task with its sentence; nothing where there is one alone."""
    return fragment("tasks", verdicts=verdicts, chosen=chosen) if len(verdicts) > 1 else ""


def _verdict(look: Look, verdict: Verdict) -> str:
    shares = [(adapter, arm, share) for (adapter, arm), share in shares_of(look.plan).items() if arm in ARMS]
    shown = sorted((s for s in shares if s[1] != "shadow"), key=lambda s: ARMS.index(s[1]))
    return fragment("verdict", task=look.task, verdict=verdict, shares=shown, tenants=look.plan.tenants)


def _rollout(look: Look) -> str:
    rollout = look.rollout
    if rollout is None:
        return fragment("no_rollout", task=look.task.name, read=look.at is not None)
    return fragment(
        "rollout",
        rollout=rollout,
        steps=scales.steps_of(rollout, look.task),
        time=scales.time_in_step(rollout),
        requests=scales.requests_in_step(rollout),
        difference=scales.difference_of(rollout),
        active=rollout["state"] in ("running", "held"),
    )


def _arms(look: Look) -> str:
    """Champion and canary side by side, with whoever else answered in the last hour."""
    found = {(arm["arm"], arm["adapter"]): arm for arm in look.arms}
    for key in _planned(look.plan):
        found.setdefault(key, {"arm": key[0], "adapter": key[1], **dict.fromkeys(name for _, name, _ in ROWS)})
    columns = [found[key] for key in sorted(found, key=lambda key: (ARMS.index(key[0]), key[1]))]
    return fragment("arms", columns=columns, rows=ROWS, withdrawn=look.plan.withdrawn, read=look.at is not None)


def _planned(plan: Plan) -> list[tuple[str, str]]:
    if plan.killed is not None:
        return [("base", BASE)]
    first = ("champion", plan.champion) if plan.champion else ("base", BASE)
    return [first, *((("canary", plan.canary),) if plan.canary else ())]


def _history(history: Sequence[Mapping[str, Any]]) -> str:
    newest = list(reversed(history))
    return fragment("history", spans=newest[:HISTORY_ROWS], older=max(0, len(newest) - HISTORY_ROWS))
