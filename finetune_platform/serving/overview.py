"""What a person or a script sees of a task at the gateway: route, rollout with its evidence, traffic, history.

Plain values; the command line, the operator's API and page show the same.
"""

from datetime import UTC, datetime, timedelta
from typing import Any

from finetune_platform.database import Database
from finetune_platform.serving import rollouts, routes
from finetune_platform.serving.latency_bins import slow_limit_ms
from finetune_platform.serving.rollout_progress import comparison, guardrail_views, margin_of_step
from finetune_platform.serving.tables import RolloutRow
from finetune_platform.serving.traffic import Counts, Told, told
from finetune_platform.task import Task

WINDOW = timedelta(hours=1)


def overview_of(database: Database, task: Task, now: datetime | None = None) -> dict[str, Any]:
    """Everything about one task as of now, JSON."""
    now = now or datetime.now(UTC)
    with database.reading() as session:
        route = routes.current(session, task.name)
        row = rollouts.latest(session, task.name)
        rows = told(session, task.name, now - WINDOW, now)
    return {
        "task": task.name,
        "description": task.description,
        "route": {"version": route.version, **route.plan.model_dump(mode="json")},
        "rollout": None if row is None else rollout_of(row, task, now),
        "traffic": traffic_of(rows),
    }


def rollout_of(row: RolloutRow, task: Task, now: datetime) -> dict[str, Any]:
    """One rollout: where it stands, each guardrail against its limit, the canary against the champion."""
    progress = rollouts.memory_of(row).progress
    compared = comparison(progress, task.rollout)
    return {
        "rollout_id": row.rollout_id,
        "adapter_id": row.adapter_id,
        "champion_id": row.champion_id,
        "state": row.state,
        "place": progress.place,
        "percent": progress.percent,
        "steps": progress.steps,
        "message": row.message,
        "started_at": row.created_at.isoformat(timespec="seconds"),
        "updated_at": row.updated_at.isoformat(timespec="seconds"),
        "hours_in_step": round(progress.lasted(progress.ended_at or now).total_seconds() / 3600, 3),
        "hold_hours": task.rollout.shadow_hours if progress.shadow else task.rollout.hold_hours,
        "canary_requests": progress.step_canary.n,
        "min_n": task.rollout.min_n,
        "difference": {
            "observed": compared.observed,
            "lower": compared.bounds.lower,
            "upper": compared.bounds.upper,
            "must_exceed": -margin_of_step(progress, task.rollout),
        },
        "guardrails": [
            {
                "name": view.guardrail,
                "e_value": view.e_value,
                "limit": view.limit,
                "canary": view.canary.rate,
                "canary_n": view.canary.n,
                "champion": view.champion.rate,
                "champion_n": view.champion.n,
            }
            for view in guardrail_views(progress, task.rollout)
        ],
    }


def traffic_of(rows: list[Told]) -> list[dict[str, Any]]:
    """Each arm's traffic, all its spans together."""
    arms: dict[tuple[str, str], Counts] = {}
    for row in rows:
        arms.setdefault((row.key.arm, row.key.adapter), Counts()).add(row.counts)
    return [{"arm": arm, "adapter": adapter, **figures_of(counts)} for (arm, adapter), counts in sorted(arms.items())]


def figures_of(counts: Counts) -> dict[str, Any]:
    """Counts as rates; None where there is nothing to divide by. Latencies are upper edges of bins, in ms."""
    answered = counts.n - counts.errors
    return {
        "requests": counts.n,
        "error_rate": _share(counts.errors, counts.n),
        "invalid_format_rate": _share(counts.invalid_format, counts.format_n),
        "refusal_rate": _share(counts.refusals, answered),
        "negative_feedback_rate": _share(counts.feedback_negative, counts.feedback_n),
        "feedback": counts.feedback_n,
        "latency_p50_ms": slow_limit_ms(counts.latency, 0.5),
        "latency_p95_ms": slow_limit_ms(counts.latency, 0.95),
        "latency_p99_ms": slow_limit_ms(counts.latency, 0.99),
        "prompt_tokens": counts.prompt_tokens,
        "completion_tokens": counts.completion_tokens,
    }


def history_of(database: Database, task: str) -> list[dict[str, Any]]:
    """Which adapter served what share when, oldest first."""
    return [
        {
            **span._asdict(),
            "since": span.since.isoformat(timespec="seconds"),
            "until": span.until.isoformat(timespec="seconds") if span.until else None,
        }
        for span in routes.history(database, task)
    ]


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
