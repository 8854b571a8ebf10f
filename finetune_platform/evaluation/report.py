"""The report as one self-contained page: an `Evidence` in, HTML out.

No script and nothing loaded from anywhere: the page opens the same from a bucket, a mail or a printed archive. Its
content security policy forbids scripts, so an answer that holds one stays text twice over.
"""

import json
import math
from typing import TYPE_CHECKING, Any

from finetune_platform.evaluation.evidence import Evidence, Value
from finetune_platform.evaluation.plots import difference_panels, latency_panel, metric_panels, stratum_panel

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
    """Where this package's templates are rendered: everything is escaped, and what is not there is an error."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("finetune_platform.evaluation", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        number=number,
        signed=signed,
        interval=interval,
        money=money,
        count=count,
        seconds=seconds,
        pretty=pretty,
        sentence=sentence,
    )
    return environment


def number(value: float | None, digits: int = 2) -> str:
    """`0.71`, or a dash for what was not measured."""
    return "–" if value is None else f"{value:.{digits}f}".replace("-", "−")


def signed(value: float | None, digits: int = 3) -> str:
    """`+0.031`."""
    return "–" if value is None else f"{value:+.{digits}f}".replace("-", "−")


def interval(value: Value, digits: int = 2) -> str:
    """`0.66 to 0.75`."""
    return "" if value.lower is None else f"{number(value.lower, digits)} to {number(value.upper, digits)}"


def money(value: float | None, currency: str) -> str:
    """An amount with at least two significant digits: `USD 0.0042`."""
    if value is None:
        return "–"
    if value == 0:
        return f"{currency} 0"
    digits = max(2, 1 - math.floor(math.log10(abs(value))))
    return f"{currency} {value:,.{digits}f}"


def count(value: float) -> str:
    """A whole number with separators."""
    return f"{value:,.0f}"


def seconds(milliseconds: float | None) -> str:
    """Milliseconds as seconds, or as milliseconds where short."""
    if milliseconds is None:
        return "–"
    return f"{milliseconds:.0f} ms" if milliseconds < 1000 else f"{milliseconds / 1000:.2f} s"


def sentence(text: str) -> str:
    """`text` with a capital at the start; the rest stays as it is ("Entity F1")."""
    return text[:1].upper() + text[1:]


def pretty(value: Any) -> str:
    """Any record as readable text."""
    return value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True)
