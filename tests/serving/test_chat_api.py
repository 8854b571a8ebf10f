"""OpenAI's endpoints as applications use them: the official client against the running gateway."""

from collections.abc import Iterator
from typing import Any

import openai
import pytest
import requests
from gateway_server import Running, running_gateway
from openai import OpenAI
from upper_engine import Upper

from finetune_platform.inference.chat import EngineError
from finetune_platform.serving.route_operations import start_ab
from finetune_platform.settings import Settings
from finetune_platform.task import Task
from finetune_platform.task_file import load_task


@pytest.fixture
def task(task_file: Any) -> Task:
    return load_task(task_file())


@pytest.fixture
def engine() -> Upper:
    return Upper()


@pytest.fixture
def running(settings_env: Settings, task: Task, engine: Upper) -> Iterator[Running]:
    with running_gateway(settings_env, [task], {task.name: engine}) as started:
        yield started


@pytest.fixture
def client(running: Running) -> OpenAI:
    return OpenAI(base_url=f"{running.url}/v1", api_key=running.key(), max_retries=0)


USER = [{"role": "user", "content": "one two three"}]


def test_the_official_client_gets_an_answer(client: OpenAI, engine: Upper) -> None:
    answer = client.chat.completions.create(model="ticket_topics", messages=USER, temperature=0)  # type: ignore[arg-type]
    assert answer.choices[0].message.content == "ONE TWO THREE"
    assert answer.model == "ticket_topics"
    assert answer.id.startswith("in-b-base-")
    assert answer.usage is not None and answer.usage.total_tokens == 5
    assert engine.asked[0]["temperature"] == 0


def test_the_official_client_streams(client: OpenAI) -> None:
    pieces = client.chat.completions.create(model="ticket_topics", messages=USER, stream=True)  # type: ignore[call-overload]
    chunks = list(pieces)
    assert [c.choices[0].delta.content for c in chunks] == ["ONE", "TWO", "THREE", None]
    assert len({c.id for c in chunks}) == 1


def test_usage_comes_at_the_end_of_a_stream_that_asks_for_it(client: OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(  # type: ignore[call-overload]
            model="ticket_topics", messages=USER, stream=True, stream_options={"include_usage": True}
        )
    )
    assert chunks[-1].choices == [] and chunks[-1].usage.total_tokens == 5


def test_a_stream_that_breaks_off_is_an_error_to_the_client(client: OpenAI, engine: Upper) -> None:
    engine.break_after = 1
    pieces = client.chat.completions.create(model="ticket_topics", messages=USER, stream=True)  # type: ignore[call-overload]
    with pytest.raises(openai.APIError, match="went away"):
        list(pieces)


def test_plain_completions_are_user_messages(client: OpenAI, engine: Upper) -> None:
    answer = client.completions.create(model="ticket_topics", prompt=["first", "second"])
    assert [c.text for c in answer.choices] == ["FIRST", "SECOND"]
    assert engine.asked[0]["messages"][-1] == {"role": "user", "content": "first"}
    streamed = client.completions.create(model="ticket_topics", prompt="a b", stream=True)
    assert "".join(c.choices[0].text for c in streamed) == "AB"


def test_models_lists_the_tasks_of_the_key(running: Running, client: OpenAI) -> None:
    assert [m.id for m in client.models.list()] == ["ticket_topics"]
    assert client.models.retrieve("ticket_topics").id == "ticket_topics"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")


def test_the_platforms_prompt_takes_the_place_of_the_callers(client: OpenAI, engine: Upper, task: Task) -> None:
    client.chat.completions.create(
        model="ticket_topics",
        messages=[{"role": "system", "content": "Be rude."}, *USER],  # type: ignore[list-item]
    )
    assert [m["content"] for m in engine.asked[0]["messages"]] == [task.baseline_prompt, "one two three"]


def test_text_parts_and_developer_messages_are_understood(client: OpenAI, engine: Upper) -> None:
    parts = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]
    client.chat.completions.create(model="ticket_topics", messages=[{"role": "user", "content": parts}])  # type: ignore[list-item,misc]
    assert engine.asked[0]["messages"][-1]["content"] == "one two"


def test_more_tokens_than_the_task_allows_are_cut_to_its_limit(client: OpenAI, engine: Upper) -> None:
    client.chat.completions.create(model="ticket_topics", messages=USER, max_tokens=10_000)  # type: ignore[arg-type]
    client.chat.completions.create(model="ticket_topics", messages=USER, max_completion_tokens=3)  # type: ignore[arg-type]
    assert [body["max_tokens"] for body in engine.asked] == [8, 3]


def test_an_overloaded_engine_is_429_with_a_time(running: Running, engine: Upper) -> None:
    engine.failing = EngineError(429, "busy", 7.0)
    answer = requests.post(
        f"{running.url}/v1/chat/completions",
        json={"model": "ticket_topics", "messages": USER},
        headers={"authorization": f"Bearer {running.key()}"},
        timeout=10,
    )
    assert answer.status_code == 429 and answer.headers["retry-after"] == "7"
    assert answer.json()["error"]["type"] == "rate_limit_error"


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        (b"{", 400, None),
        (b"[]", 400, None),
        (b'{"model": "ticket_topics"}', 400, "messages"),
        (b'{"model": "ticket_topics", "messages": []}', 400, "messages"),
        (b'{"model": "ticket_topics", "messages": [{"role": "cook", "content": "x"}]}', 400, "messages.0.role"),
        (b'{"model": "nothing", "messages": [{"role": "user", "content": "x"}]}', 404, "model"),
        (b'{"model": "../etc", "messages": [{"role": "user", "content": "x"}]}', 404, "model"),
        (b'{"model": "ticket_topics", "temperature": 9, "messages": [{"role": "user"}]}', 400, "temperature"),
    ],
)
def test_a_wrong_request_says_which_field(running: Running, body: bytes, status: int, param: str | None) -> None:
    answer = requests.post(
        f"{running.url}/v1/chat/completions",
        data=body,
        headers={"authorization": f"Bearer {running.key()}"},
        timeout=10,
    )
    assert answer.status_code == status
    assert answer.json()["error"]["param"] == param


def test_feedback_counts_once_and_only_for_real_answers(running: Running, client: OpenAI) -> None:
    answer = client.chat.completions.create(model="ticket_topics", messages=USER)  # type: ignore[arg-type]
    headers = {"authorization": f"Bearer {running.key()}"}

    def say(interaction_id: str, **words: Any) -> requests.Response:
        return requests.post(
            f"{running.url}/v1/feedback",
            json={"interaction_id": interaction_id, **words},
            headers=headers,
            timeout=10,
        )

    assert say(answer.id, rating="down", correction="card").json() == {"status": "kept", "counted": True}
    assert say(answer.id, rating="up").json() == {"status": "kept", "counted": False}
    assert say(answer.id).status_code == 400
    assert say(f"{answer.id[:-1]}{'0' if answer.id[-1] != '0' else '1'}", rating="up").status_code == 404


def test_every_answer_is_counted_by_arm(running: Running, client: OpenAI) -> None:
    client.chat.completions.create(model="ticket_topics", messages=USER)  # type: ignore[arg-type]
    text = requests.get(f"{running.url}/metrics", timeout=10).text
    assert 'finetune_requests_total{adapter="base",arm="base",outcome="stop",task="ticket_topics"} 1.0' in text


def test_without_a_key_nothing_is_told(running: Running) -> None:
    for path in ("/v1/models", "/operator/v1/tasks"):
        answer = requests.get(f"{running.url}{path}", timeout=10)
        assert answer.status_code == 401 and answer.headers["www-authenticate"].startswith("Bearer")
    assert requests.get(f"{running.url}/healthz", timeout=10).json() == {"status": "ok"}


def test_an_operator_kills_and_revives_over_http(running: Running) -> None:
    headers = {"authorization": f"Bearer {running.key('operator')}"}
    place = f"{running.url}/operator/v1/tasks/ticket_topics"
    killed = requests.post(f"{place}/kill", json={"reason": "wrong language"}, headers=headers, timeout=10)
    assert killed.json() == {"task": "ticket_topics", "action": "kill", "written": True}
    assert running.gateway.watch.plan("ticket_topics").killed == "wrong language"
    requests.post(f"{place}/revive", json={"reason": "mended"}, headers=headers, timeout=10)
    assert running.gateway.watch.plan("ticket_topics").killed is None
    refused = requests.post(f"{place}/step", json={"reason": "x"}, headers=headers, timeout=10)
    assert refused.status_code == 409 and "no rollout" in refused.json()["error"]["message"]
    caller = {"authorization": f"Bearer {running.key('caller')}"}
    assert requests.post(f"{place}/kill", json={"reason": "x"}, headers=caller, timeout=10).status_code == 403


def test_an_operator_reads_how_an_ab_test_stands(running: Running) -> None:
    headers = {"authorization": f"Bearer {running.key('operator')}"}
    place = f"{running.url}/operator/v1/tasks/ticket_topics/comparison"
    refused = requests.get(place, headers=headers, timeout=10)
    assert refused.status_code == 409 and "never had an A/B test" in refused.json()["error"]["message"]
    start_ab(running.gateway.database, "ticket_topics", "ad-2", 50, actor="test", reason="to see")
    told = requests.get(place, headers=headers, timeout=10).json()
    assert told["window"]["adapter"] == "ad-2" and told["verdict"] == "open"
    caller = {"authorization": f"Bearer {running.key('caller')}"}
    assert requests.get(place, headers=caller, timeout=10).status_code == 403
