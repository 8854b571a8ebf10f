"""What `drift_report` needs to tell how good answers in production are: the log, labels, votes, a judge, a baseline.

Each library package gives its part here; what they amount to is `drift/quality.py`'s.
"""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from finetune_platform.database import Database
from finetune_platform.lake import Lake
from finetune_platform.manifests import AdapterManifest
from finetune_platform.settings import settings
from finetune_platform.task import Task

if TYPE_CHECKING:
    from finetune_platform.drift.monitor import Traffic
    from finetune_platform.drift.performance import Baseline
    from finetune_platform.drift.quality import Answer, Production


def production_of(task: Task, traffic: "Traffic", lake: Lake, database: Database) -> "Production":
    """A task's production, whose answers `traffic` reads."""
    from finetune_platform.curation.strata import kind_of_question
    from finetune_platform.drift.quality import Production
    from finetune_platform.inference.judge import build_judge
    from finetune_platform.serving.votes import votes_since

    champion = traffic.champion

    return Production(
        champion,
        traffic.read,
        lambda since: _labels(task, lake, champion.name, since),
        lambda since: votes_since(database, task.name, champion.name, since),
        lambda question: kind_of_question(question, task.curation.strata),
        build_judge(task.judge, settings().upstream_api_keys) if task.judge else None,
        _baselines(task, lake, champion.name),
    )


def _labels(task: Task, lake: Lake, champion: str, since: datetime) -> "Sequence[Answer]":
    """Answers that experts labelled, scored by the task's own metrics."""
    from finetune_platform.drift.quality import Answer
    from finetune_platform.evaluation.metrics import build_metrics, score_rows
    from finetune_platform.labeling.labels import measuring_labels
    from finetune_platform.retrieval.prompt import question_of

    found = measuring_labels(lake, task.name, champion, since)
    given = [label["suggestion"] for label in found]
    scores = score_rows(build_metrics(task.evaluation), given, [label["answer"] for label in found])
    return [
        Answer(
            interaction_id=label["interaction_id"],
            question=question_of(json.loads(label["messages"])),
            answer=label["suggestion"],
            scores={name: part.value for name, part in parts.items()},
            weight=1.0 / (label["inclusion_probability"] or 1.0),
        )
        for label, parts in zip(found, scores, strict=True)
    ]


def _baselines(task: Task, lake: Lake, champion: str) -> "dict[str, Baseline]":
    """What the champion's evaluation says; nothing for the base model, which has none."""
    from finetune_platform.drift.performance import Baseline
    from finetune_platform.evaluation.baselines import row_baselines

    if not champion.startswith("ad-"):
        return {}
    adapter = lake.manifest(AdapterManifest, AdapterManifest.path_of(task.name, champion))
    found = row_baselines(lake, task.name, adapter.parents["evaluation_report"], task.evaluation.metrics)
    return {metric: Baseline(*values) for metric, values in found.items()}
