"""The rows of an artifact as one pandas frame, with the columns that expectations look at.

Everything is computed anew from the files that were written, so that a check judges the artifact and not the code
that made it.
"""

from typing import TYPE_CHECKING

from finetune_platform.curation.empty import emptiness
from finetune_platform.curation.groups import prompt_key
from finetune_platform.lake import Lake
from finetune_platform.manifests import DatasetManifest, RawManifest
from finetune_platform.rows import SPLITS

if TYPE_CHECKING:
    import pandas as pd


def raw_frame(lake: Lake, raw: RawManifest) -> "pd.DataFrame":
    """Rows of `raw_examples`: its columns and `emptiness`, `prompt_chars`, `kept_share`."""
    frame = lake.dataframe(f"{raw.path}/examples.parquet").to_pandas()
    return _measured(frame, raw.funnel[0].rows_in)


def dataset_frame(lake: Lake, dataset: DatasetManifest) -> "pd.DataFrame":
    """Rows of all splits: their columns, those of `raw_frame`, and `split`, `group_splits`, `stratum_test_rows`.

    `group_splits` counts the splits in which a row's group, or its normalised prompt, stands: 1 where nothing leaks.
    `stratum_test_rows` counts the test rows of a row's `task_type`.
    """
    import pandas as pd

    parts = [lake.dataframe(f"{dataset.path}/{split}.parquet").to_pandas().assign(split=split) for split in SPLITS]
    frame = _measured(pd.concat(parts, ignore_index=True), dataset.funnel[0].rows_in)
    by_group = frame.groupby("group_id")["split"].transform("nunique")
    by_prompt = frame.groupby(frame["messages"].map(prompt_key))["split"].transform("nunique")
    frame["group_splits"] = pd.concat([by_group, by_prompt], axis=1).max(axis=1)
    in_test = frame["split"].eq("test")
    frame["stratum_test_rows"] = in_test.groupby(frame["task_type"].fillna("")).transform("sum")
    return frame


def _measured(frame: "pd.DataFrame", rows_in: int) -> "pd.DataFrame":
    """Adds what is empty of a row, its prompt's length in characters, the share of the source's rows that are here."""
    return frame.assign(
        # Not null where nothing is empty: nulls would not count towards a share.
        emptiness=frame["messages"].map(lambda messages: emptiness(messages) or "none"),
        prompt_chars=frame["prompt"].str.len(),
        kept_share=len(frame) / max(rows_in, 1),
    )
