"""A judge over real HTTP and as a function: scores, unreadable words, servers that fail; and how words are read."""

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from misbehaving_server import SAYS, MisbehavingServer
from pydantic import ValidationError

from finetune_platform.errors import BadInput
from finetune_platform.inference.judge import build_judge, filled, read_score
from finetune_platform.task_judge import Judge

PROMPT = 'Is this right?\nQ: {question}\nA: {answer}\nSay {"score": 0 to 1}.'
ROWS = [(f"question {n}", f"answer {n}") for n in range(6)]


@pytest.fixture
def server() -> Iterator[MisbehavingServer]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    started = MisbehavingServer()
    asyncio.run_coroutine_threadsafe(started.__aenter__(), loop).result()
    yield started
    asyncio.run_coroutine_threadsafe(started.__aexit__(None, None, None), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def settings(server: MisbehavingServer, **more: Any) -> Judge:
    return Judge(urls=[server.url], model="gpt", prompt=PROMPT, api_key="main", **{"concurrency": 1, **more})


def judged(server: MisbehavingServer, rows: list[tuple[str, str]] = ROWS, **more: Any) -> list[tuple[Any, str, str]]:
    judge = build_judge(settings(server, **more), {"main": "sk-0123456789abcdef"})
    return [tuple(judgement) for judgement in judge.judge(rows, lambda line: None)]


def test_a_model_is_asked_each_answer_and_its_words_are_read(server: MisbehavingServer) -> None:
    server.next(*(SAYS + text for text in ("0.25", "Yes.", "no", '{"score": 1, "why": "exact"}', "8/10", "")))
    found = judged(server)
    assert [score for score, _, _ in found] == [0.25, 1.0, 0.0, 1.0, None, None]
    assert [outcome for _, outcome, _ in found] == ["scored"] * 4 + ["unreadable"] * 2
    assert '"8/10"' in found[4][2] and "a number from 0 to 1" in found[4][2]
    first = server.seen[0]
    assert first.headers["Authorization"] == "Bearer sk-0123456789abcdef"
    asked = 'Is this right?\nQ: question 0\nA: answer 0\nSay {"score": 0 to 1}.'
    assert first.body["messages"] == [{"role": "user", "content": asked}]
    assert (first.body["model"], first.body["temperature"], first.body["max_tokens"]) == ("gpt", 0, 64)


def test_a_busy_server_is_asked_again_and_one_that_fails_is_told_of(server: MisbehavingServer) -> None:
    server.usually = SAYS + "1"
    server.next("too_many", "reset", SAYS + "0", "bad_request", "not_json")
    found = judged(server)
    assert found[0][:2] == (0.0, "scored")
    assert [outcome for _, outcome, _ in found[1:4]] == ["failed", "failed", "scored"]
    assert "JSON" in found[2][2] and "sk-" not in found[1][2]


def test_a_judge_that_is_too_slow_has_not_judged(server: MisbehavingServer) -> None:
    server.usually = "slow"
    [slow] = judged(server, ROWS[:1], timeout_s=0.2, retries=0)
    assert slow[1] == "failed" and "0.2 s" in slow[2]


def test_a_server_that_is_down_fails_every_row_and_nothing_more(server: MisbehavingServer) -> None:
    server.usually = "bad_key"
    found = judged(server, concurrency=3)
    assert {outcome for _, outcome, _ in found} == {"failed"} and len(found) == len(ROWS)
    assert all("0123456789abcdef" not in problem for _, _, problem in found)


def test_several_are_judged_at_a_time_and_stand_in_their_order(server: MisbehavingServer) -> None:
    server.usually, server.pause_s = "slow", 0.1
    assert [outcome for _, outcome, _ in judged(server, concurrency=6)] == ["unreadable"] * 6  # it says "Paris."
    assert [json.dumps(seen.body["messages"]).count("answer 0") for seen in server.seen].count(1) == 1


def test_a_function_judges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_judge.py").write_text(
        "def short(question, answer):\n    return float(len(answer) < len(question))\n"
        "def wrong(question, answer):\n    return 7\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    judge = build_judge(Judge(scorer="own_judge:short"), {})
    assert [j.score for j in judge.judge([("long question", "no"), ("why", "because")], print)] == [1.0, 0.0]
    with pytest.raises(BadInput, match=r"own_judge:wrong: returned 7.0 for 'no'"):
        build_judge(Judge(scorer="own_judge:wrong"), {}).judge([("q", "no")], print)
    with pytest.raises(BadInput, match="has no function other"):
        build_judge(Judge(scorer="own_judge:other"), {})


def test_another_prompt_or_model_is_another_judge(server: MisbehavingServer) -> None:
    keys = {"main": "k"}
    ids = [build_judge(settings(server, **more), keys).judge_id for more in ({}, {"max_tokens": 9}, {"retries": 0})]
    assert ids[0] != ids[1] and ids[0] == ids[2]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, "either scorer"),
        ({"scorer": "a:b", "urls": ["http://a"], "model": "m", "prompt": PROMPT}, "either scorer"),
        ({"scorer": "a.b"}, "package.module:function"),
        ({"urls": ["http://a"], "model": "m"}, "needs model: and prompt:"),
        ({"urls": ["http://a"], "model": "m", "prompt": "{question}?"}, "must hold {answer}"),
        ({"urls": ["ftp://a"], "model": "m", "prompt": PROMPT}, "http://"),
    ],
)
def test_a_section_that_names_no_judge_is_refused(given: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        Judge(**given)


def test_a_key_that_is_not_there_is_named(server: MisbehavingServer) -> None:
    with pytest.raises(BadInput, match='judge: api_key "main" is not in UPSTREAM_API_KEYS'):
        build_judge(settings(server), {})


def test_texts_are_filled_in_once() -> None:
    assert (
        filled("{question}|{answer}|{other}", "what is {answer}?", "{question}")
        == "what is {answer}?|{question}|{other}"
    )


@given(st.floats(0, 1))
def test_every_score_is_read_however_it_is_written(score: float) -> None:
    assert read_score(f" {score}\n") == score
    assert read_score(json.dumps({"why": "x", "score": score})) == score


@pytest.mark.parametrize(
    "text", ["", "1.5", "-1", "7 out of 10", "yes and no", "true", "null", '"1"', '{"score": "1"}', "{}", "[1]", "nan"]
)
def test_anything_else_is_no_score(text: str) -> None:
    assert read_score(text) is None
