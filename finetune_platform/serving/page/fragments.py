"""Pieces of HTML from templates; whatever a person wrote is escaped by all of them."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_platform.serving.page import figures

if TYPE_CHECKING:
    from jinja2 import Environment

FOLDER = Path(__file__).parent / "templates"


def fragment(name: str, **values: Any) -> str:
    """A template, filled in."""
    return _environment().get_template(f"{name}.html.j2").render(**values)


def head_html() -> str:
    """Styles and the script that shows times in the viewer's zone."""
    style, script = (_text(name) for name in ("operator.css", "operator.js"))
    return f"<style>{style}</style>\n<script>{script}</script>"


@cache
def _text(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: Mapping[str, Any] = {
        "percent": figures.percent,
        "rate": figures.rate,
        "count": figures.count,
        "ms": figures.milliseconds,
        "iso": _iso,
        "utc": _utc,
    }
    environment.filters.update(filters)
    environment.globals["style"] = _text("operator.css")
    return environment


def _iso(moment: datetime | str) -> str:
    return moment if isinstance(moment, str) else moment.isoformat(timespec="seconds")


def _utc(moment: datetime | str) -> str:
    """What stands there until the script has put the viewer's own time in its place."""
    at = datetime.fromisoformat(moment) if isinstance(moment, str) else moment
    return f"{(at - (at.utcoffset() or timedelta(0))):%Y-%m-%d %H:%M} UTC"
