"""A small task, and everything upstream of its evaluation in a lake."""

from pathlib import Path

import pytest
from recorded_chain import Chain

from finetune_platform.lake import Lake
from finetune_platform.task import Task


@pytest.fixture
def task() -> Task:
    return Task.model_validate(
        {
            "name": "people",
            "description": "Lists the people in a sentence.",
            "base_model": "./tiny",
            "system_prompt": "List.",
            "baseline_prompt": "List all the people in the sentence that follows.",
            "sources": [{"uri": "rows.jsonl", "format": "messages"}],
            "evaluation": {
                "metrics": ["entity_f1", "exact_match", "token_f1", "valid_format"],
                "primary_metric": "entity_f1",
                "output_pattern": r"^(none|\[.+ - PERSON\])$",
                "entities": {"types": ["PERSON"], "empty": "none"},
                "batch_size": 8,
                "max_new_tokens": 20,
                "gates": [
                    {"metric": "entity_f1", "max_regression_vs": "prompted"},
                    {"metric": "exact_match", "max_regression_vs": "trivial"},
                    {"metric": "entity_f1", "max_regression_vs": "champion", "margin": 0.05},
                    {"metric": "valid_format", "threshold": 0.9},
                    {"metric": "exact_match", "slice": "task_type=empty", "threshold": 0.5, "tier": "warn"},
                ],
            },
            "cost": {"serving_hour": 0.36, "requests_per_month": 2000},
        }
    )


@pytest.fixture
def chain(local_lake: Lake, tmp_path: Path) -> Chain:
    return Chain(local_lake, tmp_path / "upstream")
