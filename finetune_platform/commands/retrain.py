"""`finetune retrain`: what `labels_ready` would start, started by a person: labels to registered adapter."""

from finetune_platform.commands.dagster_home import prepare
from finetune_platform.commands.installation import find_task, open_database, open_lake, read_settings
from finetune_platform.commands.live import stage_view
from finetune_platform.commands.run import latest_manifest
from finetune_platform.commands.summary import render_result
from finetune_platform.commands.terminal import console
from finetune_platform.errors import FinetuneError
from finetune_platform.labeling.batches import newest_batch, read_batch
from finetune_platform.labeling.figures import figures_of
from finetune_platform.labeling.readiness import readiness_of
from finetune_platform.labeling.retraining import begin_retraining, end_retraining
from finetune_platform.manifests import AdapterManifest, EvaluationManifest


def retrain(name: str, accept_agreement: bool) -> None:
    """Retrains a task on its labels now, whatever cooldown and budget say.

    The newest batch, where it is complete, counts as having had its retraining.

    Args:
        name: The task.
        accept_agreement: Take a batch in which people agree too little.

    Raises:
        FinetuneError: Whatever ended a stage.
    """
    task, database = find_task(name), open_database()
    prepare(read_settings())
    from finetune_platform.definitions import build_defs
    from finetune_platform.sensors.by_hand import execute
    from finetune_platform.sensors.drift_alarm import CAUSE_TAG
    from finetune_platform.sensors.labels_ready import RETRAIN_STAGES, run_config

    batch_id = _ripe_batch(task.name, task.labeling.min_agreement, accept_agreement)
    if batch_id is not None:
        begin_retraining(database, task.name, batch_id)
    config = run_config(task, "by hand", accept_agreement)
    tags = {} if batch_id is None else {CAUSE_TAG: batch_id}
    try:
        with stage_view(RETRAIN_STAGES) as send:
            job = build_defs().resolve_job_def(f"{task.name}_retrain")
            execute(job, task.name, RETRAIN_STAGES, send, config, tags)
    except FinetuneError as error:
        if batch_id is not None:
            end_retraining(database, batch_id, "failed", error.problem)
        raise
    if batch_id is not None:
        end_retraining(database, batch_id, "done", "started by hand")
    lake = open_lake()
    evaluation = latest_manifest(lake, database, task, "evaluation_report")
    adapter = latest_manifest(lake, database, task, "registered_adapter")
    assert isinstance(evaluation, EvaluationManifest) and isinstance(adapter, AdapterManifest)
    console().print(render_result(task, evaluation, adapter))


def _ripe_batch(task: str, min_agreement: float, accept_agreement: bool) -> str | None:
    """The newest batch, if this run will close it or it is closed."""
    database = open_database()
    batch_id = newest_batch(database, task)
    if batch_id is None:
        return None
    batch = read_batch(database, batch_id)
    ready = readiness_of(batch, figures_of(batch, 0.0), min_agreement).state
    ripe = not batch.is_open or ready == "ready" or (accept_agreement and ready == "low_agreement")
    return batch_id if ripe else None
