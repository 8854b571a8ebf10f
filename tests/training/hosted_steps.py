"""Steps in which a provider trains, with what became of them."""

import threading
from typing import Any, NamedTuple

from dagster import AssetExecutionContext, DagsterInstance, MaterializeResult, asset, materialize

from finetune_platform.resources.training_job import TrainingJob


class Step(NamedTuple):
    run: str | None
    failure: Any
    lines: list[str]
    tags: dict[str, str]


def train_in_a_step(launcher: Any, job: TrainingJob, during=lambda instance, run_id: None) -> Step:
    """One step; `during` runs beside it."""
    trained, failed, run_ids = [], [], []

    @asset
    def trained_adapter(context: AssetExecutionContext) -> MaterializeResult:
        run_ids.append(context.run_id)
        threading.Thread(target=during, args=(context.instance, context.run_id), daemon=True).start()
        try:
            trained.append(launcher.train(context, job))
        except BaseException as error:
            failed.append(error)
            raise
        return MaterializeResult()

    with DagsterInstance.ephemeral() as instance:
        materialize([trained_adapter], instance=instance, raise_on_error=False)
        lines = [entry.user_message for entry in instance.all_logs(run_ids[0])]
        tags = dict(instance.get_run_by_id(run_ids[0]).tags)
    return Step((trained or [None])[0], (failed or [None])[0], lines, tags)
