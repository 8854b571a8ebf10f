"""What all report pages share: numbers as people write them, and an environment for their templates.

Head, colours and common style stand in `templates/report_page.html.j2`; what a page shows belongs to its package.
"""

import json
import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment


def page_environment(package: str) -> "Environment":
    """Templates of a package, which may extend `report_page.html.j2`; values are escaped, a missing one is an error."""
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package, "."), PackageLoader("finetune_platform", "templates")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        number=number, signed=signed, money=money, count=count, seconds=seconds, pretty=pretty, sentence=sentence
    )
    return environment


def number(value: float | None, digits: int = 2) -> str:
    """`0.71`, or a dash for what was not measured."""
    return "–" if value is None else f"{value:.{digits}f}".replace("-", "−")


def signed(value: float | None, digits: int = 3) -> str:
    """`+0.031`."""
    return "–" if value is None else f"{value:+.{digits}f}".replace("-", "−")


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
