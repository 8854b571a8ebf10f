"""Labels as stations of a walk: from an interaction to the rows that its labels became, and from such a row back.

What a label is and how it comes about is `labeling/`'s; where rows went afterwards, `trace.py`'s.
"""

from typing import TYPE_CHECKING, Any

from finetune_platform.lake import Lake
from finetune_platform.manifests import Record
from finetune_platform.rows import LABELS_PLACE, labels_path

if TYPE_CHECKING:
    import pyarrow.dataset as ds

COLUMNS = (
    "label_id", "label_from", "interaction_id", "batch_id", "number", "answer", "suggestion", "adapter_id", "how",
    "decided_by", "decided_at",
)  # fmt: skip


class LabelFound(Record):
    """A label on the way. `place` is where rows made of it say that they come from."""

    task: str
    label_id: str
    label_from: str
    interaction_id: str | None
    place: str
    answer: str
    suggestion: str | None
    adapter_id: str
    how: str
    decided_by: list[str]
    decided_at: str


def labels_of_interaction(lake: Lake, task: str, interaction_id: str) -> list[LabelFound]:
    """Every label that an interaction became, oldest first."""
    import pyarrow.dataset as ds

    return _read(lake, task, ds.field("interaction_id") == interaction_id)


def labels_at(lake: Lake, task: str, uri: str, number: int) -> list[LabelFound]:
    """The label that gave the row at a place; none where no label did."""
    import pyarrow.dataset as ds

    if not uri.startswith(LABELS_PLACE):
        return []
    name = uri.removeprefix(LABELS_PLACE)
    of_batch = (ds.field("batch_id") == name) & (ds.field("number") == number) & (ds.field("label_from") == "expert")
    return _read(lake, task, of_batch | (ds.field("label_id") == name))


def _read(lake: Lake, task: str, wanted: "ds.Expression") -> list[LabelFound]:
    path = labels_path(task)
    try:
        table = lake.table(path)
    except FileNotFoundError:
        return []
    with lake.table_failures(path):
        rows = table.to_pyarrow_dataset().to_table(columns=list(COLUMNS), filter=wanted).to_pylist()
    return [_found(task, row) for row in sorted(rows, key=lambda row: (row["decided_at"], row["label_id"]))]


def _found(task: str, row: dict[str, Any]) -> LabelFound:
    expert = row["label_from"] == "expert"
    name, number = (row["batch_id"], row["number"]) if expert else (row["label_id"], 1)
    told = {key: value for key, value in row.items() if key not in ("batch_id", "number", "decided_at")}
    return LabelFound(
        task=task, place=f"{LABELS_PLACE}{name}:{number}", decided_at=row["decided_at"].isoformat(), **told
    )
