"""Passages at the gateway, over HTTP: they reach the engine, the reader is told of them, and trouble costs nobody an
answer."""

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from answering_engine import AnsweringEngine
from gateway_server import Running, running_gateway
from openai import OpenAI

from finetune_platform.database import Database
from finetune_platform.lake import Lake
from finetune_platform.retrieval.build import build_index
from finetune_platform.retrieval.index import Index
from finetune_platform.serving import grounding as grounding_module
from finetune_platform.settings import Settings
from finetune_platform.task import Task
from finetune_platform.task_file import load_task

DOCS = {
    "card.txt": "A lost card is replaced within five working days.",
    "transfer.txt": "Code TR-77 means that the transfer waits for a signature.",
    "login.txt": "The app locks after three wrong passwords.",
}
QUESTION = "What does TR-77 mean?"


@pytest.fixture
def task(task_file: Any, embedding_model: Path) -> Task:
    retrieval = {"corpus": [{"uri": "docs"}], "embedder": str(embedding_model), "top_k": 2, "timeout_s": 20}
    path = task_file(retrieval=retrieval, serving={"log_share": 1.0})
    for name, text in DOCS.items():
        (path.parent / "docs").mkdir(exist_ok=True)
        (path.parent / "docs" / name).write_text(text)
    return load_task(path)


def make_index(task: Task, place: Settings) -> str:
    lake, database = Lake(place.lake_url), Database(place.database_url)
    made = build_index(task, lake, place.cache_dir, print)
    database.record_artifact(made, "retrieval_index", lake.url_of(made.path), None)
    database.close()
    return made.artifact_id


@pytest.fixture
def engine() -> AnsweringEngine:
    return AnsweringEngine()


@pytest.fixture
def indexed(task: Task, settings_env: Settings, engine: AnsweringEngine) -> Iterator[Running]:
    """A gateway that found an index when it started."""
    make_index(task, settings_env)
    with running_gateway(settings_env, [task], {task.name: engine}) as running:
        yield running


def client(running: Running) -> OpenAI:
    return OpenAI(base_url=f"{running.url}/v1", api_key=running.key(), max_retries=0)


def ask(running: Running, question: str = QUESTION) -> dict[str, Any]:
    body = {"model": "ticket_topics", "messages": [{"role": "user", "content": question}]}
    headers = {"authorization": f"Bearer {running.key()}"}
    answer = requests.post(f"{running.url}/v1/chat/completions", json=body, headers=headers, timeout=60)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def count(running: Running, outcome: str) -> float:
    name = f'finetune_retrievals_total{{outcome="{outcome}",task="ticket_topics"}} '
    lines = requests.get(f"{running.url}/metrics", timeout=10).text.splitlines()
    return next((float(line.removeprefix(name)) for line in lines if line.startswith(name)), 0.0)


def test_passages_reach_the_engine_and_citations_the_reader(indexed: Running, engine: AnsweringEngine) -> None:
    answer = ask(indexed)
    first = answer["citations"][0]
    assert (first["number"], first["name"], first["start"], first["end"]) == (
        1, "docs/transfer.txt", 0, len(DOCS["transfer.txt"]),
    )  # fmt: skip
    assert [cited["number"] for cited in answer["citations"]] == [1, 2]
    assert first["score"] >= answer["citations"][1]["score"] > 0
    messages = engine.asked[0][1]["messages"]
    assert [message["role"] for message in messages] == ["system", "user"]
    assert messages[0]["content"].startswith("Answer with the topic")
    assert f"[1] docs/transfer.txt\n{DOCS['transfer.txt']}" in messages[0]["content"]
    assert messages[1]["content"] == QUESTION
    assert count(indexed, "found") == 1


def test_a_stream_ends_with_its_citations_once(indexed: Running) -> None:
    stream = client(indexed).chat.completions.create(
        model="ticket_topics", messages=[{"role": "user", "content": QUESTION}], stream=True,
        stream_options={"include_usage": True},
    )  # fmt: skip
    chunks = [chunk.model_dump() for chunk in stream]
    cited = [chunk for chunk in chunks if chunk.get("citations") is not None]
    assert [chunk["choices"][0]["finish_reason"] for chunk in cited] == ["stop"]
    assert cited[0]["citations"][0]["name"] == "docs/transfer.txt"


def test_each_plain_completion_has_its_own_citations(indexed: Running, engine: AnsweringEngine) -> None:
    prompts = [QUESTION, "How long until I get a new card?"]
    answer = client(indexed).completions.create(model="ticket_topics", prompt=prompts).model_dump()
    assert [choice["citations"][0]["name"] for choice in answer["choices"]] == ["docs/transfer.txt", "docs/card.txt"]
    streamed = client(indexed).completions.create(model="ticket_topics", prompt=QUESTION, stream=True)
    last = [chunk.model_dump() for chunk in streamed][-1]
    assert last["choices"][0]["citations"][0]["name"] == "docs/transfer.txt"


def test_the_interaction_holds_the_passages_that_were_used(indexed: Running, settings_env: Settings) -> None:
    ask(indexed)
    lake = Lake(settings_env.lake_url)
    deadline = time.monotonic() + 20
    rows: list[dict[str, Any]] = []
    while not rows and time.monotonic() < deadline:
        indexed.gateway.log.flush_soon()
        try:
            rows = lake.table("ticket_topics/interactions").to_pyarrow_table().to_pylist()
        except FileNotFoundError:
            time.sleep(0.2)
    assert DOCS["transfer.txt"] in str(rows[0]["request"])


def test_a_newer_index_is_taken_up_without_a_restart(
    indexed: Running, task: Task, settings_env: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grounding_module, "LOOK_S", 0.1)
    assert task.path is not None
    (task.path.parent / "docs" / "fees.txt").write_text("An account costs two euros a month.")
    make_index(task, settings_env)
    deadline = time.monotonic() + 30
    while ask(indexed, "What does an account cost?")["citations"][0]["name"] != "docs/fees.txt":
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_without_an_index_answers_come_without_passages_and_are_counted(
    task: Task, settings_env: Settings, engine: AnsweringEngine
) -> None:
    with running_gateway(settings_env, [task], {task.name: engine}) as running:
        assert ask(running)["citations"] == []
        assert count(running, "no_index") == 1
    assert "docs/" not in str(engine.asked)


def test_an_embedder_that_fails_costs_nobody_an_answer(
    indexed: Running, engine: AnsweringEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object) -> None:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patched:
        patched.setattr(Index, "search_all", broken)
        assert ask(indexed)["citations"] == []
    assert count(indexed, "failed") == 1
    assert ask(indexed)["citations"]


def test_a_slow_search_holds_up_neither_its_answer_nor_others(
    indexed: Running, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = indexed.gateway.grounding._searches[task.name]
    assert task.retrieval is not None
    search._wanted = task.retrieval.model_copy(update={"timeout_s": 0.3})
    release = threading.Event()
    monkeypatch.setattr(Index, "search_all", lambda *args: release.wait(30))
    try:
        started = time.monotonic()
        assert ask(indexed)["citations"] == []
        assert ask(indexed)["citations"] == []
        assert time.monotonic() - started < 10
        assert count(indexed, "timeout") == 2
    finally:
        release.set()


def test_an_index_that_cannot_be_loaded_leaves_the_older_one_in_place(
    indexed: Running, task: Task, settings_env: Settings
) -> None:
    database = Database(settings_env.database_url)
    current = database.latest_artifact(task.name, "retrieval_index")
    assert current is not None
    manifest = indexed.gateway.grounding._searches[task.name].index.manifest  # type: ignore[union-attr]
    database.record_artifact(manifest.model_copy(update={"artifact_id": "ix-gone"}), "retrieval_index", "", None)
    database.close()
    asyncio.run(indexed.gateway.grounding.look())
    assert "ix-gone" in indexed.gateway.grounding.failures[task.name]
    assert ask(indexed)["citations"]


def test_a_task_without_a_corpus_has_no_citations(
    task_file: Any, settings_env: Settings, engine: AnsweringEngine
) -> None:
    task = load_task(task_file())
    with running_gateway(settings_env, [task], {task.name: engine}) as running:
        assert "citations" not in ask(running)
