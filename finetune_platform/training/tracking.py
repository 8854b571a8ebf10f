"""MLflow: one run a training run, with parameters, curves, system metrics and the log, resumed when training is.

`log.jsonl` in the lake is the record; MLflow is where people look. Registering models belongs in `registry/`.
"""

import logging
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from finetune_platform.errors import Unreachable
from finetune_platform.lake import Lake
from finetune_platform.manifests_training import Usage
from finetune_platform.progress import Report
from finetune_platform.storage_errors import disk_failures
from finetune_platform.training.loop import StepLog, Stopped

if TYPE_CHECKING:
    from mlflow import MlflowClient

RUN_TAG = "training_run_id"
SEND_EVERY_S = 2.0
ANSWER_TIMEOUT_S = 10
FOUND_AS = ("loss", "learning_rate", "grad_norm", "rows_per_second", "tokens_per_second", "epoch", "validation_loss")
"""Fields of `StepLog` that become curves."""

TOLD_OF_USAGE = ("flops", "peak_memory_bytes", "utilisation", "energy_wh", "cost")
"""Fields of `Usage` that become metrics of the run."""


class TrackedRun(NamedTuple):
    """What a run is called and tagged with in MLflow.

    Attributes:
        experiment: The task's name.
        training_run_id: The run's name, and the tag by which a resumed run finds itself.
        params: Options, one value a name.
        tags: Further tags: dataset, Dagster run.
    """

    experiment: str
    training_run_id: str
    params: Mapping[str, Any]
    tags: Mapping[str, str]


@contextmanager
def tracked(uri: str, lake: Lake, run: TrackedRun, report: Report) -> "Iterator[Future[Tracking]]":
    """An MLflow run that is opening while the block prepares, and is ended the way the block ends."""
    import peft
    import torch
    import transformers

    _ = (peft, torch, transformers)  # Imported before the thread starts: see `start_tracking`.
    opening = start_tracking(uri, lake, run, report)
    status = "FAILED"
    try:
        yield opening
        status = "FINISHED"
    except Stopped:
        status = "KILLED"
        raise
    finally:
        if opening.exception() is None:
            opening.result().close(status)


def start_tracking(uri: str, lake: Lake, run: TrackedRun, report: Report) -> "Future[Tracking]":
    """Opens the run in the background: importing MLflow and making its database take longer than loading a model.

    The caller imports torch, transformers and peft first: two threads inside one package's imports can see half of it.
    """
    pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="mlflow")
    opening = pool.submit(open_tracking, uri, lake, run, report)
    pool.shutdown(wait=False)
    return opening


def open_tracking(uri: str, lake: Lake, run: TrackedRun, report: Report) -> "Tracking":
    """The MLflow run of a training run, made or taken up again.

    Raises:
        Unreachable: MLflow does not answer at `uri`.
    """
    _answers(uri)
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        client = MlflowClient(tracking_uri=uri)
        run_id, artifact_uri = _ensure_run(client, lake, run)
    except MlflowException as error:
        raise _unreachable(uri, error.message) from error
    return Tracking(client, uri, run_id, artifact_uri, lake, report)


class Tracking:
    """An open MLflow run.

    Args:
        client: Of the tracking server.
        uri: Its address.
        run_id: MLflow's id of the run.
        artifact_uri: Where MLflow looks for the run's files.
        lake: Holds them.
        report: Told once if MLflow stops answering; training goes on, the log has everything.
    """

    def __init__(
        self, client: "MlflowClient", uri: str, run_id: str, artifact_uri: str, lake: Lake, report: Report
    ) -> None:
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        self.run_id = run_id
        self._client, self._uri, self._artifact_uri = client, uri, artifact_uri
        self._lake, self._report = lake, report
        self._unsent: list[Any] = []
        self._in_flight: list[Any] = []
        self._sent_at = time.monotonic()
        self._monitor = SystemMetricsMonitor(run_id, sampling_interval=10, resume_logging=True, tracking_uri=uri)
        self._monitor.start()

    def log_step(self, entry: StepLog) -> None:
        """Adds a step to the curves; what comes together within two seconds travels together, in the background."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        values = entry._asdict()
        self._unsent += [Metric(k, values[k], now, entry.step) for k in FOUND_AS if values[k] is not None]
        self._unsent += [Metric(name, value, now, entry.step) for name, value in entry.measures.items()]
        if time.monotonic() - self._sent_at >= SEND_EVERY_S:
            self._send()

    def log_usage(self, usage: Usage, step: int) -> None:
        """Adds what the run took, once."""
        self.log_figures(usage.model_dump(include=set(TOLD_OF_USAGE), exclude_none=True), step)

    def log_figures(self, figures: Mapping[str, float], step: int) -> None:
        """Adds figures of the whole run; they travel with its steps."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._unsent += [Metric(name, float(value), now, step) for name, value in figures.items()]

    def add_file(self, name: str, content: bytes) -> None:
        """Stores a file of the run where MLflow looks for it, if that is in the lake."""
        inside = _inside(self._lake, self._artifact_uri)
        if inside is None:
            self._report(
                f"MLflow keeps this task's files at {self._artifact_uri}, outside the lake: {name} is not there"
            )
        else:
            self._lake.put(f"{inside}/{name}", content)

    def tag(self, tags: Mapping[str, str]) -> None:
        """Says more of the run, over what was said before by the same names."""
        from mlflow.entities import RunTag
        from mlflow.exceptions import MlflowException

        try:
            self._client.log_batch(self.run_id, tags=[RunTag(name, value) for name, value in tags.items()])
        except MlflowException as error:
            self._report(f"MLflow at {self._uri} stopped answering ({error.message}): {dict(tags)} is not there")

    def close(self, status: str) -> None:
        """Sends what is unsent and ends the run as `FINISHED`, `FAILED` or `KILLED`."""
        from mlflow.exceptions import MlflowException

        self._monitor.finish()
        try:
            self._send()
            for sending in self._in_flight:
                sending.wait()
            self._client.set_terminated(self.run_id, status=status)
        except MlflowException as error:
            self._report(f"MLflow at {self._uri} stopped answering ({error.message}); log.jsonl has the whole curve")

    def _send(self) -> None:
        if self._unsent:
            self._in_flight.append(self._client.log_batch(self.run_id, metrics=self._unsent, synchronous=False))
        self._unsent, self._sent_at = [], time.monotonic()


def _ensure_run(client: "MlflowClient", lake: Lake, run: TrackedRun) -> tuple[str, str]:
    from mlflow.entities import Param, RunTag

    experiment_id = _ensure_experiment(client, lake, run.experiment)
    found = client.search_runs([experiment_id], f"tags.{RUN_TAG} = '{run.training_run_id}'", max_results=1)
    if found:
        made = found[0]
        client.update_run(made.info.run_id, status="RUNNING")
    else:
        tags = {RUN_TAG: run.training_run_id, **run.tags}
        made = client.create_run(experiment_id, tags=tags, run_name=run.training_run_id)
        params = [Param(k, str(v)) for k, v in run.params.items()]
        client.log_batch(made.info.run_id, params=params)
    client.log_batch(made.info.run_id, tags=[RunTag(k, v) for k, v in run.tags.items()])
    return str(made.info.run_id), str(made.info.artifact_uri)


def _ensure_experiment(client: "MlflowClient", lake: Lake, name: str) -> str:
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        location = lake.url_of(f"mlflow/{name}")
        try:
            return str(client.create_experiment(name, location if "://" in location else Path(location).as_uri()))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            found = client.get_experiment_by_name(name)
    assert found is not None
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


def _inside(lake: Lake, artifact_uri: str) -> str | None:
    """The lake path of an artifact address, None where it lies elsewhere."""
    root = lake.url if "://" in lake.url else Path(lake.url).as_uri()
    return artifact_uri.removeprefix(f"{root}/") if artifact_uri.startswith(f"{root}/") else None


def _answers(uri: str) -> None:
    """Asks once, with a short wait: MLflow's own clients retry for minutes before they give up."""
    if uri.startswith(("http://", "https://")):
        import requests

        try:
            requests.get(f"{uri.rstrip('/')}/health", timeout=ANSWER_TIMEOUT_S).raise_for_status()
        except requests.RequestException as error:
            raise _unreachable(uri, str(error)) from error
        return
    import sqlalchemy

    url = sqlalchemy.make_url(uri)
    wait: dict[str, Any] = {}
    if url.drivername.startswith("sqlite"):
        if url.database:
            with disk_failures(Path(url.database).parent):
                Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    else:
        wait = {"connect_timeout": ANSWER_TIMEOUT_S}
    engine = sqlalchemy.create_engine(url, connect_args=wait)
    try:
        engine.connect().close()
    except sqlalchemy.exc.SQLAlchemyError as error:
        raise _unreachable(uri, str(error.__cause__ or error)) from error
    finally:
        engine.dispose()


def _unreachable(uri: str, reason: str) -> Unreachable:
    scheme, _, rest = uri.partition("://")
    shown = f"{scheme}://{rest.rpartition('@')[2]}" if "@" in rest else uri
    return Unreachable(
        f"MLflow at {shown} does not answer: {' '.join(reason.split())}",
        "start that server, or set MLFLOW_TRACKING_URI (unset: a local database)",
    )
