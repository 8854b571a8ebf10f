"""What exists, one file a stage in the order of the flow. An asset reads inputs, calls one library function and
attaches metadata; logic belongs in the library."""

from dagster import AssetsDefinition

from finetune_platform.assets.curated_dataset import curated_dataset
from finetune_platform.assets.evaluation_report import evaluation_report
from finetune_platform.assets.raw_examples import raw_examples
from finetune_platform.assets.registered_adapter import registered_adapter
from finetune_platform.assets.rollout import rollout
from finetune_platform.assets.trained_adapter import trained_adapter
from finetune_platform.task import Task

STAGES = (raw_examples, curated_dataset, trained_adapter, evaluation_report, registered_adapter, rollout)
"""Builders in the order of the flow."""


def assets_of(task: Task) -> list[AssetsDefinition]:
    """The assets of one task, key prefix = its name."""
    return [build(task) for build in STAGES]
