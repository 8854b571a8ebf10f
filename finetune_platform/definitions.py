"""Where Dagster enters: `build_defs` assembles everything, and `defs` serves what the environment names.

Nothing heavy may be imported here or below: the code location loads in under three seconds.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from dagster import Definitions, definitions, in_process_executor

from finetune_platform.assets import assets_of
from finetune_platform.resources.artifact_io import ArtifactIOManager
from finetune_platform.resources.local_launcher import LocalLauncher
from finetune_platform.resources.storage import DatabaseResource, LakeResource
from finetune_platform.resources.workbench import Workbench
from finetune_platform.sensors.chain import chain_job, chain_schedule
from finetune_platform.sensors.new_data import new_data_sensor
from finetune_platform.settings import Settings, settings
from finetune_platform.task import Task, find_tasks


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
        "launcher": LocalLauncher(),
        "io_manager": ArtifactIOManager(lake=lake, database=database),
    }


def build_defs(tasks: Sequence[Task] | None = None, resources: Mapping[str, Any] | None = None) -> Definitions:
    """Assembles the code location; tests use it with overrides.

    Args:
        tasks: Default: every task file in `TASKS_DIR`.
        resources: Override those of the environment's settings, by key.

    Raises:
        BadInput: A task file is wrong: the location does not load, rather than silently without that task.
    """
    place = settings()
    found = find_tasks(place.tasks_dir) if tasks is None else list(tasks)
    jobs = {task.name: chain_job(task) for task in found}
    schedules = [chain_schedule(task, jobs[task.name]) for task in found]
    return Definitions(
        assets=[asset for task in found for asset in assets_of(task)],
        jobs=list(jobs.values()),
        schedules=[schedule for schedule in schedules if schedule is not None],
        sensors=[new_data_sensor(task, jobs[task.name]) for task in found],
        resources={**build_resources(place), **(resources or {})},
        executor=in_process_executor,
    )


@definitions
def defs() -> Definitions:
    return build_defs()
