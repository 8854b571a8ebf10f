"""Pieces of HTML from the templates of one folder and this package's; whatever a person wrote is escaped by all."""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment

SHARED = Path(__file__).parent / "templates"


class Templates:
    """Templates, styles and scripts of one site.

    Args:
        folder: Where its own are.
        filters: What its templates call beside `iso` and `utc`.
    """

    def __init__(self, folder: Path = SHARED, filters: Mapping[str, Callable[..., Any]] | None = None) -> None:
        self._folders, self._filters = list(dict.fromkeys((folder, SHARED))), dict(filters or {})

    def fragment(self, name: str, **values: Any) -> str:
        """A template, filled in."""
        return self._environment.get_template(f"{name}.html.j2").render(**values)

    def head_html(self, *names: str) -> str:
        """The shared style and script, and after them those of these names."""
        files = ["site.css", "site.js", *names]
        return "\n".join(
            f"<style>{self._text(name)}</style>" if name.endswith(".css") else f"<script>{self._text(name)}</script>"
            for name in files
        )

    def _text(self, name: str) -> str:
        found = next(folder / name for folder in self._folders if (folder / name).is_file())
        return found.read_text(encoding="utf-8")

    @cached_property
    def _environment(self) -> "Environment":
        from jinja2 import Environment, FileSystemLoader, StrictUndefined

        environment = Environment(
            loader=FileSystemLoader(self._folders),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        environment.filters.update({"iso": _iso, "utc": _utc, **self._filters})
        environment.globals["style"] = self._text("site.css")
        return environment


def _iso(moment: datetime | str) -> str:
    return moment if isinstance(moment, str) else moment.isoformat(timespec="seconds")


def _utc(moment: datetime | str) -> str:
    """What stands there until the script has put the viewer's own time in its place."""
    at = datetime.fromisoformat(moment) if isinstance(moment, str) else moment
    return f"{(at - (at.utcoffset() or timedelta(0))):%Y-%m-%d %H:%M} UTC"
