"""Where Dagster enters: `build_defs` assembles everything, and `defs` serves what the environment names.

Nothing heavy may be imported here or below: the code location loads in under three seconds.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from dagster import Definitions, definitions, in_process_executor

from finetune_platform.assets import assets_of
from finetune_platform.assets.base_model_proposal import base_model_job, base_model_proposal
from finetune_platform.assets.drift_report import drift_job, drift_report, drift_schedule
from finetune_platform.assets.expert_labels import expert_labels
from finetune_platform.assets.interactions import (
    interactions_asset,
    interactions_maintenance,
    interactions_observation,
    interactions_schedules,
)
from finetune_platform.assets.retrieval_index import retrieval_index, retrieval_job, retrieval_schedule
from finetune_platform.assets.review_batch import review_batch
from finetune_platform.resources.artifact_io import ArtifactIOManager
from finetune_platform.resources.launcher import Launcher, place_of
from finetune_platform.resources.storage import DatabaseResource, LakeResource
from finetune_platform.resources.workbench import Workbench
from finetune_platform.sensors.base_model_update import base_model_sensor
from finetune_platform.sensors.chain import chain_job, chain_schedule
from finetune_platform.sensors.drift_alarm import drift_alarm_sensor, review_job
from finetune_platform.sensors.drift_rows import drift_rows_sensor
from finetune_platform.sensors.label_studio import label_studio_sensor
from finetune_platform.sensors.labels_ready import labels_ready_sensor, retrain_job
from finetune_platform.sensors.new_data import new_data_sensor
from finetune_platform.sensors.notify import notify_sensor
from finetune_platform.sensors.rollout_step import rollout_job, rollout_step_sensor
from finetune_platform.sensors.run_failure import run_failures_sensor
from finetune_platform.settings import Settings, settings
from finetune_platform.task import Task
from finetune_platform.task_file import find_tasks


def build_resources(place: Settings) -> dict[str, Any]:
    """The resources that an installation's settings name."""
    lake, database = LakeResource(url=place.lake_url), DatabaseResource()
    return {
        "lake": lake,
        "database": database,
        "workbench": Workbench(
            cache_dir=str(place.cache_dir),
            work_dir=str(place.finetune_home / "work"),
        ),
        "launcher": Launcher(place=place.launcher),
        "io_manager": ArtifactIOManager(lake=lake, database=database),
    }


def build_defs(tasks: Sequence[Task] | None = None, resources: Mapping[str, Any] | None = None) -> Definitions:
    """Assembles the code location; tests use it with overrides.

    Args:
        tasks: Default: every task file in `TASKS_DIR`.
        resources: Override those of the environment's settings, by key.

    Raises:
        BadInput: A task file is wrong, or does not say what its place of training needs: the location does not load,
            rather than silently without that task.
    """
    place = settings()
    found = find_tasks(place.tasks_dir) if tasks is None else list(tasks)
    for task in found:
        place_of(task, place.launcher)
    per_task = [definitions for task in found for definitions in (_chain_of(task), _loop_of(task))]
    per_task += [_retrieval_of(task) for task in found if task.retrieval is not None]
    elsewhere = [(task, task.labeling.label_studio) for task in found]
    return Definitions.merge(
        Definitions(
            resources={**build_resources(place), **(resources or {})},
            executor=in_process_executor,
            sensors=[
                notify_sensor(found, place),
                run_failures_sensor(found),
                *(label_studio_sensor(task, server, place) for task, server in elsewhere if server is not None),
            ],
        ),
        *per_task,
    )


def _chain_of(task: Task) -> Definitions:
    """From a task's sources to its adapter's share of the traffic."""
    chain, rollout, proposal = chain_job(task), rollout_job(task), base_model_job(task)
    schedule = chain_schedule(task, chain)
    return Definitions(
        assets=[*assets_of(task), base_model_proposal(task)],
        jobs=[chain, rollout, proposal],
        schedules=[] if schedule is None else [schedule],
        sensors=[
            new_data_sensor(task, chain),
            rollout_step_sensor(task, rollout),
            base_model_sensor(task, proposal),
        ],
    )


def _loop_of(task: Task) -> Definitions:
    """From a task's traffic to experts' labels and the next adapter."""
    observation, maintenance = interactions_observation(task), interactions_maintenance(task)
    drift, review, retrain = drift_job(task), review_job(task), retrain_job(task)
    looks, rows_look = drift_schedule(task, drift), drift_rows_sensor(task, drift)
    return Definitions(
        assets=[interactions_asset(task), drift_report(task), review_batch(task), expert_labels(task)],
        jobs=[observation, maintenance, drift, review, retrain],
        schedules=[
            *([] if looks is None else [looks]),
            *interactions_schedules(task, observation, maintenance),
        ],
        sensors=[
            *([] if rows_look is None else [rows_look]),
            drift_alarm_sensor(task, review),
            labels_ready_sensor(task, retrain),
        ],
    )


def _retrieval_of(task: Task) -> Definitions:
    """What a task with documents has besides."""
    job = retrieval_job(task)
    schedule = retrieval_schedule(task, job)
    return Definitions(assets=[retrieval_index(task)], jobs=[job], schedules=[] if schedule is None else [schedule])


@definitions
def defs() -> Definitions:
    return build_defs()
