"""The report as one self-contained page: a `DriftReport` in, HTML out. What it says is found in `explanation.py`."""

from finetune_platform.drift.plots import evidence, evidence_plots
from finetune_platform.drift.quality_plots import quality_plots
from finetune_platform.drift.report import DriftReport
from finetune_platform.report_page import page_environment

TEMPLATE = "drift_report.html.j2"
SHOWN_LOOKS = 120
"""Of a longer history the newest."""

SHOWN_FROM = 0.02
"""Distance of a channel below which nothing of it is named: something always grew a little."""

TONES = {"gathering": "inconclusive", "quiet": "pass", "alarm": "fail"}


def render_page(report: DriftReport) -> str:
    """The page.

    Args:
        report: `DriftReport.model_validate_json` of a `report.json` gives the same page again.
    """
    environment = page_environment("finetune_platform.drift")
    environment.filters.update(evidence=evidence, moment=moment, percent=percent, points=points)
    history = report.history[-SHOWN_LOOKS:]
    return environment.get_template(TEMPLATE).render(
        r=report,
        found=report.found,
        tone=TONES[report.found.status],
        quality=quality_plots(report.found.performance, report.quality_history),
        plots=evidence_plots(history, report.found.limit) if history else None,
        moved={one.channel: one for one in report.changes.moved} if report.changes else {},
        looks=history[::-1],
        shown_from=SHOWN_FROM,
    )


def moment(iso: str) -> str:
    """`2026-11-19 18:40`."""
    return iso[:16].replace("T", " ")


def percent(share: float) -> str:
    """`12%`, `0.4%` below ten percent."""
    return f"{share:.0%}" if share >= 0.0995 or share == 0 else f"{share:.1%}"


def points(difference: float) -> str:
    """A difference of shares in percentage points: `+12.4`."""
    return f"{100 * difference:+.1f}".replace("-", "−")
