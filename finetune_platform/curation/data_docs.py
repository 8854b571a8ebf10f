"""Great Expectations' Data Docs of one validation, as a folder that opens anywhere.

The library's own site takes styles, scripts and a logo from five other servers and brings 4 MB of tutorial images;
its renderer is used here with a page of ours instead (`templates/data_docs.html`).
"""

from copy import deepcopy
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_platform.lake import Lake
from finetune_platform.storage_errors import disk_failures

if TYPE_CHECKING:
    from great_expectations.core import ExpectationSuiteValidationResult

    from finetune_platform.curation.expectations import CheckOutcome

TEMPLATES = Path(__file__).parent / "templates"


def write_page(
    result: "ExpectationSuiteValidationResult", outcomes: "list[CheckOutcome]", title: str, rows: int, folder: Path
) -> Path:
    """Writes `index.html`: the verdict, one line a check, then Great Expectations' own account by column.

    Args:
        result: What the library found.
        outcomes: The same by check, in the order to show.
        title: What was validated.
        rows: How many rows.
        folder: Made where missing.
    """
    from great_expectations.render.renderer import ValidationResultsPageRenderer
    from great_expectations.render.view import DefaultJinjaPageView

    view = DefaultJinjaPageView(custom_views_directory=str(TEMPLATES))
    # The first section is the library's overview, which links to pages that are not here.
    sections = ValidationResultsPageRenderer().render(_escaped(result)).to_json_dict()["sections"][1:]
    html = view.env.get_template("data_docs.html").render(
        title=title, rows=rows, outcomes=outcomes, sections=sections, renderer_type="ValidationResultsPageRenderer"
    )
    page = folder / "index.html"
    with disk_failures(folder):
        folder.mkdir(parents=True, exist_ok=True)
        page.write_text(html, encoding="utf-8")
    return page


def _escaped(result: "ExpectationSuiteValidationResult") -> "ExpectationSuiteValidationResult":
    """A copy whose values are safe in HTML: the library puts the cells that failed into its tables as they are."""
    copied = deepcopy(result)
    for item in copied.results:
        item.result = _escape(item.result)
        item.exception_info = _escape(item.exception_info)
    return copied


def _escape(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _escape(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_escape(inner) for inner in value]
    return escape(value) if isinstance(value, str) else value


def publish_docs(lake: Lake, folder: Path, path: str) -> str:
    """Copies a folder of Data Docs into the lake, over an earlier one.

    Args:
        lake: Where to.
        folder: What `validate` wrote.
        path: Its place in the lake: `{task}/data_docs/{artifact_id}`.

    Returns:
        The address of its `index.html`.
    """
    for file in sorted(p for p in folder.rglob("*") if p.is_file()):
        lake.put(f"{path}/{file.relative_to(folder).as_posix()}", file.read_bytes())
    return lake.url_of(f"{path}/index.html")
