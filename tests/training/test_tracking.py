"""MLflow sees what the log has, in one run however often training is taken up, and says so at once when it is away."""

import time

import pytest
from mlflow import MlflowClient

from finetune_platform.errors import Unreachable
from finetune_platform.training.loop import StepLog
from finetune_platform.training.tracking import TrackedRun, open_tracking

RUN = TrackedRun("ticket_topics", "tr-1", {"learning_rate": 0.01, "peft.r": 4}, {"dataset_id": "ds-1"})


def entry(step: int) -> StepLog:
    measured = 0.5 if step == 4 else None
    return StepLog(step, step / 4, 1 / step, 0.01, 2.0, 4, 100, 0.1, 40.0, 1000.0, measured)


def test_a_run_taken_up_again_is_the_same_run_with_the_whole_curve(local_lake, tmp_path):
    uri = f"sqlite:///{tmp_path / 'new' / 'mlflow.db'}"
    first = open_tracking(uri, local_lake, RUN, print)
    first.log_step(entry(1))
    first.log_step(entry(2))
    first.close("KILLED")
    again = open_tracking(uri, local_lake, RUN._replace(tags={"dagster_run_id": "r-2"}), print)
    again.log_step(entry(3))
    again.log_step(entry(4))
    again.add_file("log.jsonl", b"{}\n")
    again.close("FINISHED")

    client = MlflowClient(tracking_uri=uri)
    run = client.get_run(again.run_id)
    assert again.run_id == first.run_id
    assert (run.info.run_name, run.info.status) == ("tr-1", "FINISHED")
    assert run.data.params == {"learning_rate": "0.01", "peft.r": "4"}
    assert {"dataset_id": "ds-1", "dagster_run_id": "r-2", "training_run_id": "tr-1"}.items() <= run.data.tags.items()
    curve = client.get_metric_history(run.info.run_id, "loss")
    assert [(m.step, m.value) for m in curve] == [(n, pytest.approx(1 / n)) for n in (1, 2, 3, 4)]
    assert [m.step for m in client.get_metric_history(run.info.run_id, "validation_loss")] == [4]
    assert [f.path for f in client.list_artifacts(run.info.run_id)] == ["log.jsonl"]


@pytest.mark.parametrize(
    "uri", ["http://127.0.0.1:9", "postgresql+psycopg://user:secret@127.0.0.1:9/mlflow", "sqlite:////proc/1/mlflow.db"]
)
def test_an_address_that_does_not_answer_is_named_at_once_without_its_password(uri, local_lake):
    began = time.monotonic()
    with pytest.raises(Unreachable, match=r"MLflow at .*(127\.0\.0\.1:9|/proc/1)") as told:
        open_tracking(uri, local_lake, RUN, print)
    assert time.monotonic() - began < 5 and "secret" not in str(told.value)
