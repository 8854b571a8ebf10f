"""`finetune index` and `finetune retrieve`, as a user runs them."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from finetune_platform.cli import app
from finetune_platform.settings import Settings


def run(*words: str) -> Any:
    return CliRunner().invoke(app, list(words))


def test_an_index_is_made_and_asked(
    settings_env: Settings, task_file: Any, embedding_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(settings_env.finetune_home / "dagster"))
    path = task_file(retrieval={"corpus": [{"uri": "docs"}], "embedder": str(embedding_model)})
    (path.parent / "docs").mkdir()
    (path.parent / "docs" / "card.txt").write_text("A lost card is replaced within five working days.")
    (path.parent / "docs" / "login.txt").write_text("The app locks after three wrong passwords.")
    early = run("retrieve", "ticket_topics", "lost card")
    assert early.exit_code == 2 and "finetune index ticket_topics" in early.output
    made = run("index", "ticket_topics")
    assert made.exit_code == 0, made.output
    assert "2 documents, 2 chunks, 0 documents set aside" in made.output
    found = json.loads(run("retrieve", "ticket_topics", "lost card", "-k", "1", "--json").stdout)
    assert found["index"] in made.output
    assert [(p["number"], p["name"], p["text"][:11]) for p in found["passages"]] == [
        (1, "docs/card.txt", "A lost card")
    ]
    shown = run("retrieve", "ticket_topics", "lost card").output
    assert shown.index("[1] docs/card.txt") < shown.index("[2] docs/login.txt")


def test_a_task_without_a_corpus_says_what_to_add(settings_env: Settings, task_file: Any) -> None:
    task_file()
    for command in (["index", "ticket_topics"], ["retrieve", "ticket_topics", "x"]):
        refused = run(*command)
        assert refused.exit_code == 2
        assert "retrieval section" in refused.output
