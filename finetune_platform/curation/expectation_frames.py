"""The rows of an artifact as one pandas frame, with the columns that expectations look at.

Everything is computed anew from the files that were written, so that a check judges the artifact and not the code
that made it.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from finetune_platform.curation.empty import emptiness
from finetune_platform.curation.groups import prompt_key
from finetune_platform.lake import Lake
from finetune_platform.manifests import DatasetManifest, RawManifest
from finetune_platform.rows import SPLITS

if TYPE_CHECKING:
    import pandas as pd


def raw_frame(lake: Lake, raw: RawManifest) -> "pd.DataFrame":
    """Rows of `raw_examples`: its columns and `emptiness`, `prompt_chars`, `kept_share`, `answered`, `said`."""
    frame = lake.dataframe(f"{raw.path}/examples.parquet").to_pandas()
    return _measured(frame, raw.funnel[0].rows_in)


def dataset_frame(lake: Lake, dataset: DatasetManifest) -> "pd.DataFrame":
    """Rows of all splits: their columns, those of `raw_frame`, and those of which a split is judged.

    `group_splits` counts the splits in which a row's group, or its normalised prompt, stands: 1 where nothing leaks.
    The others are of rows of kind `sft`, which evaluation reads, and null in others: `answered_split` is the row's
    `split`, `stratum_test_rows` counts such test rows of its `task_type`.
    """
    import pandas as pd

    parts = [lake.dataframe(f"{dataset.path}/{split}.parquet").to_pandas().assign(split=split) for split in SPLITS]
    frame = _measured(pd.concat(parts, ignore_index=True), dataset.funnel[0].rows_in)
    by_group = frame.groupby("group_id")["split"].transform("nunique")
    keys = [prompt_key(*row) for row in _stored(frame, "messages", "text")]
    by_prompt = frame.groupby(pd.Series(keys, index=frame.index))["split"].transform("nunique")
    frame["group_splits"] = pd.concat([by_group, by_prompt], axis=1).max(axis=1)
    answered = frame["kind"].eq("sft")
    in_test = frame["split"].eq("test") & answered
    frame["answered_split"] = frame["split"].where(answered)
    frame["stratum_test_rows"] = in_test.groupby(frame["task_type"].fillna("")).transform("sum").where(answered)
    return frame


def _measured(frame: "pd.DataFrame", rows_in: int) -> "pd.DataFrame":
    """Adds what is empty of a row, its prompt's length in characters, the share of the source's rows that are here.

    `answered` is 1 for a row of kind `sft`, else 0; `said` is a row's answer where it is one to give.
    """
    unwanted = frame["kind"].eq("text")
    if "desirable" in frame:
        unwanted |= frame["desirable"].eq(False)
    return frame.assign(
        # Not null where nothing is empty: nulls would not count towards a share.
        emptiness=[emptiness(*row) or "none" for row in _stored(frame, "messages", "rejected", "text")],
        prompt_chars=frame["prompt"].str.len(),
        kept_share=len(frame) / max(rows_in, 1),
        answered=frame["kind"].eq("sft").astype(int),
        said=frame["answer"].mask(unwanted),
    )


def _stored(frame: "pd.DataFrame", *columns: str) -> Iterator[tuple[Any, ...]]:
    """The columns' values row by row, None where pandas holds a missing value of its own."""
    return zip(*(frame[name].astype(object).where(frame[name].notna(), None) for name in columns), strict=True)
