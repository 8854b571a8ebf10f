"""The report as one self-contained page: an `Evidence` in, HTML out.

No script and nothing loaded from anywhere: the page opens the same from a bucket, a mail or a printed archive. Its
content security policy forbids scripts, so an answer that holds one stays text twice over.
"""

from typing import TYPE_CHECKING

from finetune_platform.evaluation.evidence import Evidence, Value
from finetune_platform.evaluation.plots import difference_panels, latency_panel, metric_panels, stratum_panel
from finetune_platform.report_page import number, page_environment

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATE = "report.html.j2"


def render_report(evidence: Evidence) -> str:
    """The page.

    Args:
        evidence: What to show; `Evidence.model_validate_json` of a `report.json` gives the same page again.
    """
    first = evidence.benchmarks[0]
    ordered = sorted(evidence.metrics, key=lambda m: m.name != evidence.primary_metric)
    titles = {m.name: m.title for m in ordered}
    return (
        environment()
        .get_template(TEMPLATE)
        .render(
            e=evidence,
            first=first,
            metrics=ordered,
            arm_titles={arm.name: arm.title for arm in first.arms},
            metric_panels=metric_panels(first, titles),
            difference_panels=difference_panels(first, titles),
            stratum_panel=stratum_panel(first, evidence.primary_metric, titles[evidence.primary_metric]),
            latency_panel=latency_panel(first),
            by_entity=evidence.compares_entities,
        )
    )


def environment() -> "Environment":
    """Where this package's templates are rendered."""
    found = page_environment("finetune_platform.evaluation")
    found.filters["interval"] = interval
    return found


def interval(value: Value, digits: int = 2) -> str:
    """`0.66 to 0.75`."""
    return "" if value.lower is None else f"{number(value.lower, digits)} to {number(value.upper, digits)}"
