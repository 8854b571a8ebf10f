"""How good an adapter was on held-out rows, each counting the same: what its answers in production are compared with.

The report's own values are in its manifest; some of them, such as entity F1, are no average over rows.
"""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from finetune_platform.evaluation.gates import CANDIDATE
from finetune_platform.evaluation.intervals import effective_rows, proportion
from finetune_platform.evaluation.resampling import group_numbers
from finetune_platform.lake import Lake
from finetune_platform.manifests import EvaluationManifest

ALPHA = 0.05


def row_baselines(lake: Lake, task: str, evaluation_id: str, metrics: list[str]) -> dict[str, tuple[float, float]]:
    """Mean score of the candidate's answers on the first benchmark, and the lower end of its 95% interval, by metric.

    A row with nothing to find and nothing claimed scores 1. Near-duplicate rows count as what they are worth together.
    Metrics that the evaluation did not score are left out.

    Raises:
        FileNotFoundError: The lake does not hold the evaluation.
    """
    path = EvaluationManifest.path_of(task, evaluation_id)
    table = pq.read_table(pa.BufferReader(lake.get(f"{path}/predictions.parquet")))
    rows = [row for row in table.to_pylist() if row["arm"] == CANDIDATE]
    rows = [row for row in rows if row["benchmark"] == rows[0]["benchmark"]]
    groups, count = group_numbers(np.array([row["group_id"] for row in rows]))
    found = {}
    for metric in metrics:
        if f"score_{metric}" not in table.column_names:
            continue
        scores = np.array([1.0 if row[f"score_{metric}"] is None else row[f"score_{metric}"] for row in rows])
        worth = effective_rows(scores, groups, count)
        found[metric] = (float(scores.mean()), proportion(float(scores.mean()) * worth, worth, ALPHA).lower)
    return found
