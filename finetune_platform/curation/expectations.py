"""What must hold of raw and of curated rows: names for asset checks, and what each check found.

Names and descriptions are plain values, so that a code location can declare one check for each without loading
Great Expectations; the expectations themselves stand in `expectation_suites.py`, the page in `data_docs.py`, the
columns they look at in `expectation_frames.py`.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from finetune_platform.task import Task

if TYPE_CHECKING:
    import pandas as pd
    from great_expectations.core import ExpectationSuiteValidationResult, ExpectationValidationResult

SuiteName = Literal["raw", "curated"]

MIN_TEST_ROWS_PER_STRATUM = 20
"""Fewer say little: with 20 rows of which half are right, a 95% interval is 40 points wide."""

_OBSERVED = ("observed_value", "element_count", "unexpected_count", "unexpected_percent")
_EXAMPLES_SHOWN = 3
_EXAMPLE_CHARS = 200


@dataclass(frozen=True)
class Expectation:
    """One check: `name` is that of the asset check, `blocking` stops what is downstream."""

    name: str
    description: str
    blocking: bool


@dataclass(frozen=True)
class CheckOutcome:
    """What one check found; `observed` holds plain JSON values."""

    name: str
    passed: bool
    blocking: bool
    observed: dict[str, Any]
    description: str

    @property
    def observed_in_words(self) -> str:
        """The figures in one line, for a report."""
        if "error" in self.observed:
            return f"could not be evaluated: {self.observed['error']}"
        if "unexpected_count" in self.observed:
            counts = f"{self.observed['unexpected_count']:,} of {self.observed['element_count']:,} rows do not"
            return "; ".join([counts, *(f"such as {example!r}" for example in self.observed.get("examples", []))])
        value = self.observed.get("observed_value", "")
        return f"{value:,.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


_EVERY_ROW = (
    Expectation("messages_present", "Every row has its messages; a text has none, and says so.", True),
    Expectation("kind_known", "Every row is of a kind that can be trained on.", True),
    Expectation("label_source_known", "Every row says who labeled it.", True),
    Expectation("source_uri_present", "Every row names the file it came from.", True),
    Expectation("source_row_positive", "Every row names its line, counted from 1.", True),
)
_RAW = (
    *_EVERY_ROW,
    Expectation("answers_present", "At least 95% of the rows have answers that are not white space.", False),
    Expectation("prompt_length", "99% of the prompts are shorter than max_tokens could possibly hold.", False),
    Expectation("enough_rows", "There are at least curation.min_rows rows of kind sft.", True),
    Expectation("share_read", "At most curation.max_rejected_share of the source's rows were set aside.", True),
)
_CURATED = (
    *_EVERY_ROW,
    Expectation("example_id_unique", "No row stands in the dataset twice.", True),
    Expectation(
        "answers_present",
        "Every row has an answer or a tool call, and a rejected one too where it is a preference.",
        True,
    ),
    Expectation("prompts_present", "Every row has something to answer, or a text.", True),
    Expectation("splits_known", "Every row stands in train, validation or test.", True),
    Expectation("splits_complete", "Train, validation and test all have rows of kind sft.", True),
    Expectation("groups_in_one_split", "No group of like prompts is cut by a split (recomputed from the rows).", True),
    Expectation("enough_rows", "There are at least curation.min_rows rows of kind sft.", True),
    Expectation("share_kept", "At least half of the source's rows are in the dataset.", False),
    Expectation(
        "strata_testable",
        f"Every stratum has at least {MIN_TEST_ROWS_PER_STRATUM} test rows of kind sft, so that it can be judged.",
        False,
    ),
)
_ANSWER_FORMAT = Expectation("answer_format", "At least 95% of the answers match evaluation.output_pattern.", False)


def expectations(suite_name: SuiteName, task: Task) -> tuple[Expectation, ...]:
    """The checks of a suite, in order; cheap, and the same names at every call."""
    suite = _RAW if suite_name == "raw" else _CURATED
    return suite if task.evaluation.output_pattern is None else (*suite, _ANSWER_FORMAT)


def validate(frame: "pd.DataFrame", suite_name: SuiteName, task: Task, docs_folder: Path) -> list[CheckOutcome]:
    """Checks rows with Great Expectations and writes its Data Docs.

    The first call of a process loads the library, which takes some seconds.

    Args:
        frame: What `raw_frame` or `dataset_frame` returns.
        suite_name: Which suite.
        task: Its limits and patterns are used.
        docs_folder: Gets `index.html`, complete in itself.

    Returns:
        One outcome for each of `expectations(suite_name, task)`, in that order. An expectation that could not be
        evaluated has not passed, and `observed["error"]` says why.
    """
    from finetune_platform.curation.data_docs import write_page
    from finetune_platform.curation.expectation_suites import dataset_suite, raw_suite, run_suite

    suite = raw_suite(task) if suite_name == "raw" else dataset_suite(task)
    result = run_suite(frame, suite)
    outcomes = _outcomes(result, expectations(suite_name, task))
    write_page(result, outcomes, f"{task.name}: {suite_name} rows", len(frame), docs_folder)
    return outcomes


def _outcomes(result: "ExpectationSuiteValidationResult", declared: tuple[Expectation, ...]) -> list[CheckOutcome]:
    found: dict[str, list[ExpectationValidationResult]] = {}
    for item in result.results:
        found.setdefault(item.expectation_config.meta["name"], []).append(item)
    return [
        CheckOutcome(
            name=e.name,
            passed=all(item.success for item in found[e.name]),
            blocking=e.blocking,
            observed=_observed(found[e.name][0]),
            description=e.description,
        )
        for e in declared
    ]


def _observed(item: "ExpectationValidationResult") -> dict[str, Any]:
    """The figures of one result as plain JSON, with a few of the rows that failed."""
    observed = {key: item.result[key] for key in _OBSERVED if item.result.get(key) is not None}
    if examples := item.result.get("partial_unexpected_list"):
        observed["examples"] = list(dict.fromkeys(str(value)[:_EXAMPLE_CHARS] for value in examples))[:_EXAMPLES_SHOWN]
    raised = [info for info in _exceptions(item.exception_info) if info.get("raised_exception")]
    if raised:
        observed["error"] = str(raised[0].get("exception_message"))
    return dict(json.loads(json.dumps(observed, default=str)))


def _exceptions(info: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Great Expectations gives one record, or one for each metric."""
    if not info:
        return []
    return [info] if "raised_exception" in info else [i for i in info.values() if isinstance(i, dict)]
