"""The label_studio sensor: there for tasks that label there, and a round says what it came to or why it cannot be.

Rounds with a real server are in tests/labeling/test_label_studio_real.py.
"""

from typing import Any

import pytest
from dagster import build_sensor_context
from review_batches import item

from finetune_platform.database import Database
from finetune_platform.definitions import build_defs
from finetune_platform.errors import Unreachable
from finetune_platform.labeling.batches import ToReview, open_batch
from finetune_platform.sensors.label_studio import round_of
from finetune_platform.settings import Settings, settings
from finetune_platform.task_file import load_task

ELSEWHERE = {"backend": "label_studio", "label_studio": {"url": "http://127.0.0.1:9", "poll_seconds": 7}}


def test_only_tasks_that_label_there_have_the_sensor(settings_env: Settings, task_file: Any) -> None:
    tasks = [load_task(task_file(name="here")), load_task(task_file(name="there", labeling=ELSEWHERE))]
    sensors = {s.name: s for s in build_defs(tasks).get_repository_def().sensor_defs}
    assert "here_label_studio" not in sensors
    assert sensors["there_label_studio"].minimum_interval_seconds == 7


def test_a_round_without_a_batch_asks_no_server_and_one_with_a_batch_says_what_is_wrong(
    settings_env: Settings, task_file: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = load_task(task_file(labeling=ELSEWHERE))
    monkeypatch.setenv("LABEL_STUDIO_TOKEN", "secret-token")
    settings.cache_clear()
    database = Database(settings_env.database_url)
    context = build_sensor_context()
    assert round_of(task, database, settings(), context) == "ticket_topics has no open batch"
    open_batch(database, task.name, "rb-1", "alarm 1", "traffic has drifted", [ToReview("in-1", item())])
    with pytest.raises(Unreachable, match=r"http://127\.0\.0\.1:9: ConnectionError") as told:
        round_of(task, database, settings(), context)
    assert "secret-token" not in str(told.value) + repr(settings())
    database.close()
