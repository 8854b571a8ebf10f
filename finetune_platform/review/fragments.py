"""Pieces of the review pages from templates."""

from pathlib import Path

from finetune_platform.labeling.guidelines import html_of
from finetune_platform.serving.site.templates import Templates


def duration(seconds: float | None) -> str:
    """`8 s`, `4 min`, `1 h 20 min`; "–" where nothing was measured."""
    if seconds is None:
        return "–"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def number(value: float | None) -> str:
    """Two digits; "–" for what does not exist."""
    return "–" if value is None else f"{value:.2f}".replace("-", "−")


def share(part: int, whole: int) -> str:
    """`75% of 4`; "none" of nothing."""
    return f"{part / whole:.0%} of {whole:,}" if whole else "none"


TEMPLATES = Templates(
    Path(__file__).parent / "templates", {"duration": duration, "number": number, "share": share, "markdown": html_of}
)
fragment = TEMPLATES.fragment


def head_html() -> str:
    """Styles and scripts of the review pages."""
    return TEMPLATES.head_html("review.css", "difference.js", "review.js")
