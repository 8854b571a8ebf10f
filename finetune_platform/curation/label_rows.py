"""A set of labels as examples: what experts and users decided about production's rows.

How labels come about is `labeling/`'s; which rows they replace, `superseded.py`'s.
"""

import json
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from finetune_platform.lake import Lake
from finetune_platform.manifests import LabelsManifest
from finetune_platform.rows import LABELS_NAME, LABELS_PLACE, Example, Message


def read_labels(lake: Lake, labels: LabelsManifest) -> Iterator[Example]:
    """The rows of a label set. A row's place is its batch and number there; a user's word has a place of its own."""
    table = pq.read_table(pa.BufferReader(lake.get(f"{labels.path}/{LABELS_NAME}")))
    for row in table.to_pylist():
        expert = row["label_from"] == "expert"
        messages = [Message.model_validate(message) for message in json.loads(row["messages"])]
        yield Example(
            messages=[*messages, Message(role="assistant", content=row["answer"])],
            label_source="expert" if expert else "production",
            source_uri=f"{LABELS_PLACE}{row['batch_id'] if expert else row['label_id']}",
            source_row=row["number"] if expert else 1,
        )
