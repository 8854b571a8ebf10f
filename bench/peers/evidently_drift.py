"""What Evidently's text drift says of streams of ticks, in its own environment:

    python -m venv .finetune/peers/evidently
    .finetune/peers/evidently/bin/pip install -r bench/peers/evidently-requirements.txt
    .finetune/peers/evidently/bin/python bench/peers/evidently_drift.py STREAMS.json

Prints, on the last line, a list of verdicts for each stream. `evidence.py drift` writes the file and calls this.
"""

import json
import sys
from pathlib import Path
from typing import Any

import pandas as pd
from evidently import DataDefinition, Dataset, Report
from evidently.presets import DataDriftPreset


def main() -> None:
    streams = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    print(json.dumps([[drifted(stream["reference"], tick) for tick in stream["ticks"]] for stream in streams]))


def drifted(reference: list[str], tick: list[str]) -> bool:
    """Evidently's own verdict with its defaults: does it count the column as drifted?"""
    definition = DataDefinition(text_columns=["text"])
    before, now = (Dataset.from_pandas(pd.DataFrame({"text": texts}), definition) for texts in (reference, tick))
    told: dict[str, Any] = Report([DataDriftPreset()]).run(now, before).dict()
    counts = next(m["value"] for m in told["metrics"] if "DriftedColumnsCount" in str(m["metric_name"]))
    return bool(counts["count"] > 0)


if __name__ == "__main__":
    main()
