"""The Great Expectations suites behind the names in `expectations.py`, and one context a process to run them.

Importing this module is cheap; calling it loads the library.
"""

import logging
import typing
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from finetune_platform.curation.expectations import MIN_TEST_ROWS_PER_STRATUM, SuiteName, expectations
from finetune_platform.rows import SPLITS, Kind, LabelSource
from finetune_platform.task import Task

if TYPE_CHECKING:
    import great_expectations as gx
    import pandas as pd
    from great_expectations.core import ExpectationSuiteValidationResult

CHARS_PER_TOKEN = 12
"""More characters than tokens of ordinary text ever have; a longer prompt is surely over `max_tokens`."""

MIN_KEPT_SHARE = 0.5

NO_ANSWER = ["empty_answer", "empty_rejected"]
NO_PROMPT = ["empty_prompt", "empty_text"]


def raw_suite(task: Task) -> "gx.ExpectationSuite":
    """What must hold of `raw_examples`."""
    import great_expectations.expectations as gxe

    limits = {
        "answers_present": gxe.ExpectColumnValuesToNotBeInSet(column="emptiness", value_set=NO_ANSWER, mostly=0.95),
        "prompt_length": gxe.ExpectColumnValuesToBeBetween(
            column="prompt_chars", min_value=1, max_value=CHARS_PER_TOKEN * task.curation.max_tokens, mostly=0.99
        ),
        "share_read": gxe.ExpectColumnMinToBeBetween(
            column="kept_share", min_value=1 - task.curation.max_rejected_share
        ),
    }
    return _suite("raw", task, {**_every_row(task), **limits})


def dataset_suite(task: Task) -> "gx.ExpectationSuite":
    """What must hold of `curated_dataset`."""
    import great_expectations.expectations as gxe

    limits = {
        "example_id_unique": gxe.ExpectColumnValuesToBeUnique(column="example_id"),
        "answers_present": gxe.ExpectColumnValuesToNotBeInSet(column="emptiness", value_set=NO_ANSWER),
        "prompts_present": gxe.ExpectColumnValuesToNotBeInSet(column="emptiness", value_set=NO_PROMPT),
        "splits_known": gxe.ExpectColumnValuesToBeInSet(column="split", value_set=list(SPLITS)),
        "splits_complete": gxe.ExpectColumnUniqueValueCountToBeBetween(column="answered_split", min_value=len(SPLITS)),
        "groups_in_one_split": gxe.ExpectColumnValuesToBeInSet(column="group_splits", value_set=[1]),
        "share_kept": gxe.ExpectColumnMinToBeBetween(column="kept_share", min_value=MIN_KEPT_SHARE),
        "strata_testable": gxe.ExpectColumnMinToBeBetween(
            column="stratum_test_rows", min_value=MIN_TEST_ROWS_PER_STRATUM
        ),
    }
    return _suite("curated", task, {**_every_row(task), **limits})


def run_suite(frame: "pd.DataFrame", suite: "gx.ExpectationSuite") -> "ExpectationSuiteValidationResult":
    """What the whole of `frame` shows of `suite`."""
    batch = _whole_frame().get_batch({"dataframe": frame})
    result = batch.validate(suite, result_format="SUMMARY")
    for item in result.results:
        # Its own renderer refuses the numpy scalars that it observes.
        if hasattr(observed := item.result.get("observed_value"), "item"):
            item.result["observed_value"] = observed.item()
    return result


def _every_row(task: Task) -> dict[str, Any]:
    import great_expectations.expectations as gxe

    found = {
        "messages_present": gxe.ExpectColumnValuesToNotBeNull(column="messages"),
        "kind_known": gxe.ExpectColumnValuesToBeInSet(column="kind", value_set=list(typing.get_args(Kind))),
        "label_source_known": gxe.ExpectColumnValuesToBeInSet(
            column="label_source", value_set=list(typing.get_args(LabelSource))
        ),
        "source_uri_present": gxe.ExpectColumnValueLengthsToBeBetween(column="source_uri", min_value=1),
        "source_row_positive": gxe.ExpectColumnValuesToBeBetween(column="source_row", min_value=1),
        "enough_rows": gxe.ExpectColumnSumToBeBetween(column="answered", min_value=task.curation.min_rows),
    }
    if task.evaluation.output_pattern is not None:
        found["answer_format"] = gxe.ExpectColumnValuesToMatchRegex(
            column="said", regex=task.evaluation.output_pattern, mostly=0.95
        )
    return found


def _suite(name: SuiteName, task: Task, found: dict[str, Any]) -> "gx.ExpectationSuite":
    """The suite in the declared order, each expectation with its name, its description and its weight."""
    import great_expectations as gx

    ordered = []
    for declared in expectations(name, task):
        expectation = found[declared.name]
        expectation.meta = {"name": declared.name}
        expectation.description = declared.description
        expectation.severity = "critical" if declared.blocking else "warning"
        ordered.append(expectation)
    return gx.ExpectationSuite(name=name, expectations=ordered)


@lru_cache(maxsize=1)
def _whole_frame() -> Any:
    """The batch definition that takes any frame whole, in this process's one context."""
    import great_expectations as gx
    from great_expectations.data_context.types.base import ProgressBarsConfig

    logging.getLogger("great_expectations").setLevel(logging.WARNING)
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False, metric_calculations=False)
    asset = context.data_sources.add_pandas("rows").add_dataframe_asset("frame")
    return asset.add_batch_definition_whole_dataframe("whole")
