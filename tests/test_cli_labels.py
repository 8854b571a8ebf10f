"""`finetune labels` on an installation of its own."""

import json
from typing import Any

import pytest
from review_batches import BATCH, TASK, a_batch, item, say
from typer.testing import CliRunner

from finetune_platform.cli import app
from finetune_platform.commands.installation import open_database
from finetune_platform.labeling.batches import close_batch
from finetune_platform.serving.keys import create_key
from finetune_platform.settings import Settings, settings


@pytest.fixture
def labelled(settings_env: Settings, task_file: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    """A closed batch and an open one, in which somebody with a key has answered; their actor."""
    monkeypatch.setenv("GATEWAY_URL", "https://gateway.example.com")
    settings.cache_clear()
    task_file(name=TASK)
    database = open_database()
    key, _ = create_key(database, name="expert", roles=["reviewer"], tasks=["*"], known_tasks=[], actor="test")
    who = f"key:{key.split('_')[1]}"
    a_batch(database, [item()])
    say(database, 1, who, "greeting")
    close_batch(database, BATCH)
    a_batch(database, [item(), item("q2", wanted=2)], "alarm 2", "rb-000000000002")
    say(database, 2, who, "greeting", "rb-000000000002")
    say(database, 2, "bob", "farewell", "rb-000000000002")
    return who


def test_batches_and_people_on_a_terminal(labelled: str) -> None:
    told = CliRunner().invoke(app, ["labels", TASK]).output
    assert told.index(BATCH) < told.index("rb-000000000002")
    assert "closed" in told and "2 of 2 rows are neither answered nor decided" in told
    assert f"expert ({labelled.removeprefix('key:')})" in told
    assert f"https://gateway.example.com/review/rows?task={TASK}" in told


def test_the_same_for_scripts(labelled: str) -> None:
    told = json.loads(CliRunner().invoke(app, ["labels", TASK, "--json"]).output)
    assert [batch["state"] for batch in told["batches"]] == ["closed", "waiting"]
    newest = told["batches"][1]
    assert newest["states"] == {"open": 1, "disputed": 1, "settled": 0, "excluded": 0}
    assert (newest["alpha"]["items"], newest["confusions"][0]["times"]) == (1, 1)
    assert {person["reviewer"] for person in newest["people"]} == {labelled, "bob"}


def test_a_task_without_a_batch(settings_env: Settings, task_file: Any) -> None:
    task_file()
    assert "nobody has been asked" in CliRunner().invoke(app, ["labels", "ticket_topics"]).output
