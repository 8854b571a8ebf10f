"""How a rollout's figures read in messages. What they mean stands in `rollout_progress.py`."""

from datetime import timedelta

from finetune_platform.serving.rollout_evidence import Outcomes
from finetune_platform.serving.rollout_progress import Comparison, GuardrailView

BAD_OUTCOMES = {
    "errors": "failed",
    "latency": "slow",
    "valid_format": "in a wrong format",
    "refusals": "refused",
    "feedback": "rated badly",
}


def guardrail_words(view: GuardrailView) -> str:
    """`valid_format: 15.0% of 1,204 in a wrong format, champion 4.8% of 22,310; e-value 131 (limit 100)`."""
    bad = BAD_OUTCOMES[view.guardrail]
    return (
        f"{view.guardrail}: {_share(view.canary)} {bad}, champion {_share(view.champion)}; "
        f"e-value {_e_value(view.e_value)} (limit {view.limit:.0f})"
    )


def success_words(compared: Comparison, margin: float) -> str:
    """`good requests +0.2 points against the champion, at worst -3.1 (must be above -5.0)`."""
    if compared.observed is None:
        return "no champion to compare with"
    return (
        f"good requests {100 * compared.observed:+.1f} points against the champion, "
        f"at worst {100 * compared.bounds.lower:+.1f} (must be above {-100 * margin:.1f})"
    )


def counted(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def hours(time: timedelta) -> str:
    return f"{time.total_seconds() / 3600:.1f} h"


def _share(outcomes: Outcomes) -> str:
    return "0 answers" if outcomes.rate is None else f"{100 * outcomes.rate:.1f}% of {outcomes.n:,}"


def _e_value(value: float) -> str:
    return f"{value:.2g}" if value < 10 or value >= 1e6 else f"{value:,.0f}"
