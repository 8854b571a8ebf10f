"""`finetune labels --sync`: what it says where nothing can be sent. With a server: tests/labeling/."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from review_batches import item
from typer.testing import CliRunner

from finetune_platform.cli import app
from finetune_platform.database import Database
from finetune_platform.labeling.batches import ToReview, open_batch
from finetune_platform.settings import Settings

ELSEWHERE = {"backend": "label_studio", "label_studio": {"url": "http://127.0.0.1:9"}}


@pytest.fixture
def database(settings_env: Settings) -> Iterator[Database]:
    opened = Database(settings_env.database_url)
    yield opened
    opened.close()


def call(*arguments: str, expect: int = 0) -> str:
    told = CliRunner().invoke(app, ["labels", *arguments, "--sync"])
    assert told.exit_code == expect, told.output + repr(told.exception)
    return told.output


def test_without_a_batch_there_is_nothing_to_do(settings_env: Settings, task_file: Any) -> None:
    task_file(labeling=ELSEWHERE)
    assert "no open batch: nothing to send" in call("ticket_topics")
    assert json.loads(call("ticket_topics", "--json"))["synced"] == []


def test_what_is_missing_is_named_with_its_mend(database: Database, task_file: Any) -> None:
    task_file(labeling=ELSEWHERE)
    open_batch(database, "ticket_topics", "rb-1", "alarm 1", "traffic has drifted", [ToReview("in-1", item())])
    said = call("ticket_topics", expect=2)
    assert "LABEL_STUDIO_TOKEN: is not set" in said and "Personal Access Token" in said
    task_file()
    assert "built-in pages" in call("ticket_topics", expect=2)
