"""Pieces of the operator's page from templates."""

from pathlib import Path

from finetune_platform.serving.page import figures
from finetune_platform.serving.site.templates import Templates

TEMPLATES = Templates(
    Path(__file__).parent / "templates",
    {
        "percent": figures.percent,
        "rate": figures.rate,
        "count": figures.count,
        "ms": figures.milliseconds,
    },
)
fragment = TEMPLATES.fragment


def head_html() -> str:
    """Styles, and the script that shows times in the viewer's zone."""
    return TEMPLATES.head_html("operator.css")
