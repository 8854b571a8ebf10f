"""Kept answers: given for the same request to the same caller by the same adapter, and to nobody else."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import requests
from answering_engine import AnsweringEngine, Manner
from gateway_server import Running, running_gateway
from hypothesis import given
from hypothesis import strategies as st

from finetune_platform.inference.chat import EngineError, LoadedAdapter
from finetune_platform.serving.plan import Plan, without
from finetune_platform.serving.response_cache import AnswerCache, key_of, replayed
from finetune_platform.serving.routes import edited
from finetune_platform.serving.traffic import told
from finetune_platform.settings import Settings
from finetune_platform.task_file import load_task
from finetune_platform.task_serving import ResponseCache

ANSWER = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "card"}, "finish_reason": "stop"}]}

messages = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant"]), "content": st.text(max_size=8)}),
    min_size=1,
    max_size=3,
)
bodies = st.fixed_dictionaries(
    {"messages": messages, "temperature": st.just(0.0), "max_tokens": st.integers(1, 9)},
    optional={"top_p": st.sampled_from([0.5, 1.0]), "stop": st.text(min_size=1, max_size=2), "seed": st.integers(0, 3)},
)
addresses = st.tuples(
    st.sampled_from(["", "acme", "other"]),
    st.sampled_from(["k1", "k2"]),
    st.sampled_from([None, "ad-1", "ad-2", "base"]),
    bodies,
)


def meant(tenant: str, key_id: str, adapter: str | None, body: Any) -> Any:
    return ("tenant", tenant) if tenant else ("key", key_id), adapter, body


@given(one=addresses, other=addresses)
def test_two_requests_have_one_key_exactly_if_caller_adapter_and_body_are_the_same(one: Any, other: Any) -> None:
    assert (key_of(*one) == key_of(*other)) == (meant(*one) == meant(*other))


@given(address=addresses, change=st.sampled_from(["tenant", "adapter", "message", "max_tokens", "stop", "seed"]))
def test_any_change_of_what_decides_the_answer_changes_the_key(address: Any, change: str) -> None:
    tenant, key_id, adapter, body = address
    changed = {
        "tenant": (f"{tenant}x", key_id, adapter, body),
        "adapter": (tenant, key_id, f"{adapter}x", body),
        "message": (
            tenant,
            key_id,
            adapter,
            {**body, "messages": [*body["messages"], {"role": "user", "content": ""}]},
        ),
        "max_tokens": (tenant, key_id, adapter, {**body, "max_tokens": body["max_tokens"] + 1}),
        "stop": (tenant, key_id, adapter, {**body, "stop": body.get("stop", "") + "."}),
        "seed": (tenant, key_id, adapter, {**body, "seed": body.get("seed", 0) + 4}),
    }[change]
    assert key_of(*changed) != key_of(*address) is not None


@given(body=bodies)
def test_the_order_of_fields_and_the_wish_for_usage_change_nothing(body: Any) -> None:
    turned = {name: body[name] for name in reversed(body)}
    streamed = {**turned, "stream_options": {"include_usage": True}}
    assert key_of("", "k1", None, body) == key_of("", "k1", None, turned) == key_of("", "k1", None, streamed)


@pytest.mark.parametrize(
    "asked",
    [
        {"temperature": 0.7},
        {"temperature": None},
        {"n": 2},
        {"tools": [{"type": "function"}]},
        {"logprobs": True},
        {"store": True},
    ],
)
def test_what_may_differ_or_do_something_is_not_kept(asked: dict[str, Any]) -> None:
    assert key_of("", "k1", "ad-1", {"messages": [], "temperature": 0.0, **asked}) is None
    assert key_of("", "k1", "ad-1", {"messages": []}) is None, "a server's own temperature is not known"


@given(
    puts=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 4000)), max_size=40),
    most=st.integers(1, 5),
)
def test_no_more_is_kept_than_allowed_and_the_newest_is_there(puts: list[tuple[int, int]], most: int) -> None:
    cache = AnswerCache(ResponseCache(max_entries=most, max_mb=0.005))
    for number, size in puts:
        cache.put(bytes([number]), {"text": "x" * size})
        assert len(cache) <= most and 0 <= cache.size_bytes <= 0.005 * 2**20
        assert cache.get(bytes([number])) == {"text": "x" * size}, "one alone fits"
    for number in range(10):
        cache.put(bytes([number]), {"text": "x" * 6000})
        assert cache.get(bytes([number])) is None, "too large for the whole"
    assert (len(cache) == 0) == (cache.size_bytes == 0)


def test_what_is_asked_for_stays_longest_and_nothing_stays_for_ever() -> None:
    now = [0.0]
    cache = AnswerCache(ResponseCache(max_entries=2, ttl_s=10), lambda: now[0])
    for key in (b"a", b"b"):
        cache.put(key, ANSWER)
    assert cache.get(b"a") == ANSWER
    cache.put(b"c", ANSWER)
    assert cache.get(b"b") is None and cache.get(b"a") == ANSWER
    now[0] = 10.0
    assert cache.get(b"a") is None and cache.get(b"c") is None and cache.size_bytes == 0


def test_a_kept_answer_is_the_callers_own_copy() -> None:
    cache = AnswerCache(ResponseCache())
    cache.put(b"a", ANSWER)
    first = cache.get(b"a")
    assert first is not None
    first["choices"].clear()
    assert cache.get(b"a") == ANSWER


def test_of_many_at_once_one_asks_and_a_failure_is_its_own() -> None:
    cache = AnswerCache(ResponseCache())
    asked: list[int] = []

    async def ask(fails: bool = False) -> dict[str, Any]:
        asked.append(1)
        await asyncio.sleep(0.01)
        if fails:
            raise EngineError(502, "away")
        return ANSWER

    async def many() -> list[Any]:
        whole = [cache.answer(b"a", ask) for _ in range(20)]
        broken = [cache.answer(b"b", lambda: ask(fails=True)), *(cache.answer(b"b", ask) for _ in range(3))]
        return await asyncio.gather(*whole, *broken, return_exceptions=True)

    told = asyncio.run(many())
    assert [hit for _, hit in told[:20]].count(False) == 1
    assert isinstance(told[20], EngineError) and all(answer == ANSWER for answer, _ in told[21:])
    assert len(asked) <= 1 + 1 + 3


def test_who_leaves_while_others_wait_leaves_them_their_answer() -> None:
    cache = AnswerCache(ResponseCache())

    async def ask() -> dict[str, Any]:
        await asyncio.sleep(0.01)
        return ANSWER

    async def leave() -> Any:
        first = asyncio.create_task(cache.answer(b"a", ask))
        second = asyncio.create_task(cache.answer(b"a", ask))
        await asyncio.sleep(0)
        first.cancel()
        return await asyncio.wait_for(second, 1)

    assert asyncio.run(leave()) == (ANSWER, False)


@pytest.mark.parametrize(
    ("deltas", "read", "kept"),
    [
        ([{"role": "assistant"}, {"content": "ca"}, {"content": "rd"}], 9, "card"),
        ([{"content": "ca"}, {"content": "rd"}], 1, None),
        ([{"content": "ca"}, {"reasoning_content": "hm"}], 9, None),
        ([{"content": "ca"}, {"tool_calls": None}], 9, "ca"),
    ],
)
def test_a_stream_is_kept_once_it_is_read_to_its_end_and_was_text_alone(
    deltas: list[dict[str, Any]], read: int, kept: str | None
) -> None:
    cache = AnswerCache(ResponseCache())

    async def engine() -> AsyncIterator[dict[str, Any]]:
        for delta in deltas:
            yield {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
        yield {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
        yield {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}}

    async def reading() -> list[dict[str, Any]]:
        stream = cache.kept_stream(b"a", engine())
        seen = [chunk async for number, chunk in _numbered(stream) if number < read]
        if kept is not None:
            again = cache.get(b"a")
            assert again is not None
            return [chunk async for chunk in replayed(again)]
        return seen

    async def _numbered(stream: Any) -> AsyncIterator[tuple[int, dict[str, Any]]]:
        for number in range(read):
            try:
                yield number, await anext(stream)
            except StopAsyncIteration:
                return
        await stream.aclose()

    chunks = asyncio.run(reading())
    if kept is None:
        assert cache.get(b"a") is None
        return
    assert "".join(c["delta"].get("content", "") for chunk in chunks for c in chunk["choices"]) == kept
    assert chunks[-1]["usage"]["total_tokens"] == 7 and chunks[-2]["choices"][0]["finish_reason"] == "stop"


@pytest.fixture
def engine() -> AnsweringEngine:
    return AnsweringEngine(manners={"ad-1": Manner(["ca", "rd"]), "ad-2": Manner(["log", "in"])})


@pytest.fixture
def running(settings_env: Settings, task_file: Any, engine: AnsweringEngine) -> Iterator[Running]:
    """A gateway whose champion is ad-1, with ad-2 ready too."""
    task = load_task(task_file(serving={"response_cache": {}, "log_share": 1.0}))
    with running_gateway(settings_env, [task], {task.name: engine}) as started:
        for adapter in ("ad-1", "ad-2"):
            engine.adapters[adapter] = LoadedAdapter(adapter, settings_env.finetune_home)
            started.gateway.tasks[task.name].prompts[adapter] = "Name the topic."
        route(started, champion="ad-1", previous_champion="ad-2")
        yield started


def route(running: Running, **changes: Any) -> Plan:
    return running.gateway.watch.apply(
        "ticket_topics", lambda plan: edited(plan, **changes), "test", "route.edit", "test"
    ).plan


def ask(running: Running, key: str, text: str = "My card was declined.", **more: Any) -> requests.Response:
    body = {"model": "ticket_topics", "messages": [{"role": "user", "content": text}], **more}
    answer = requests.post(
        f"{running.url}/v1/chat/completions", json=body, headers={"authorization": f"Bearer {key}"}, timeout=10
    )
    assert answer.status_code == 200, answer.text
    return answer


def hit(answer: requests.Response) -> bool:
    return answer.headers.get("x-finetune-cache") == "hit"


def test_a_repeat_does_not_reach_the_engine_and_is_an_interaction_of_its_own(
    running: Running, engine: AnsweringEngine
) -> None:
    key = running.key()
    first, second, other = ask(running, key), ask(running, key), ask(running, key, "The app locked me out.")
    assert [hit(first), hit(second), hit(other)] == [False, True, False] and len(engine.asked) == 2
    one, again = first.json(), second.json()
    assert one["choices"] == again["choices"] and one["usage"] == again["usage"] and one["id"] != again["id"]
    assert second.headers["x-finetune-adapter"] == "ad-1"
    metrics = requests.get(f"{running.url}/metrics", timeout=10).text
    assert 'finetune_response_cache_total{outcome="hit",task="ticket_topics"} 1.0' in metrics
    assert 'finetune_response_cache_total{outcome="miss",task="ticket_topics"} 2.0' in metrics
    assert 'finetune_tokens_total{kind="completion",task="ticket_topics"} 4.0' in metrics
    end = time.monotonic() + 20
    while running.gateway.log.figures().acknowledged != 3:
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_kept_answer_is_no_evidence(running: Running) -> None:
    key = running.key()
    for _ in range(5):
        ask(running, key)
    running.gateway.traffic.tell()
    now = datetime.now(UTC)
    with running.gateway.database.reading() as session:
        rows = told(session, "ticket_topics", now - timedelta(hours=1), now + timedelta(hours=1))
    assert [(row.key.arm, row.counts.n, sum(row.counts.latency)) for row in rows] == [("champion", 1, 1)]


def test_callers_share_within_their_tenant_only(running: Running, engine: AnsweringEngine) -> None:
    acme, also_acme, other = running.key(tenant="acme"), running.key(tenant="acme"), running.key(tenant="other")
    nobody, somebody = running.key(), running.key()
    keys = (acme, also_acme, other, nobody, somebody, nobody)
    assert [hit(ask(running, key)) for key in keys] == [False, True, False, False, False, True]
    assert len(engine.asked) == 4


def test_a_new_champion_answers_for_itself_and_the_old_one_comes_back_with_its_own(running: Running) -> None:
    key = running.key()
    ask(running, key)
    route(running, champion="ad-2", previous_champion="ad-1")
    answer = ask(running, key)
    assert not hit(answer) and answer.json()["choices"][0]["message"]["content"] == "login"
    route(running, champion="ad-1", previous_champion="ad-2")
    answer = ask(running, key)
    assert hit(answer) and answer.json()["choices"][0]["message"]["content"] == "card"


@pytest.mark.parametrize("fate", ["withdrawn", "killed"])
def test_after_a_withdrawal_or_a_kill_no_kept_answer_of_that_adapter_comes(running: Running, fate: str) -> None:
    key = running.key()
    assert not hit(ask(running, key)) and hit(ask(running, key))
    if fate == "withdrawn":
        running.gateway.watch.apply("ticket_topics", lambda plan: without(plan, "ad-1"), "t", "route.demote", "bad")
    else:
        running.gateway.watch.kill("ticket_topics", "t", "bad")
    answer = ask(running, key, stream=True)
    assert not hit(answer) and answer.headers["x-finetune-adapter"] == ("ad-2" if fate == "withdrawn" else "base")


def test_while_a_canary_is_compared_every_request_is_answered_anew(running: Running, engine: AnsweringEngine) -> None:
    key = running.key()
    assert not hit(ask(running, key)) and hit(ask(running, key))
    route(running, canary="ad-2", previous_champion=None, canary_share=0.0)
    assert not hit(ask(running, key)) and len(engine.asked) == 2
    route(running, canary=None, previous_champion="ad-2")
    assert hit(ask(running, key))


def test_streams_and_whole_answers_are_kept_for_each_other(running: Running, engine: AnsweringEngine) -> None:
    key = running.key()
    whole = ask(running, key)
    streamed = ask(running, key, stream=True, stream_options={"include_usage": True})
    assert hit(streamed) and '"content":"card"' in streamed.text and '"total_tokens":7' in streamed.text
    assert streamed.text.endswith("data: [DONE]\n\n") and whole.json()["usage"]["total_tokens"] == 7
    assert not hit(ask(running, key, "The app locked me out.", stream=True))
    again = ask(running, key, "The app locked me out.")
    assert hit(again) and again.json()["choices"][0]["message"]["content"] == "card" and len(engine.asked) == 2


def test_what_is_sampled_is_asked_each_time(running: Running, engine: AnsweringEngine) -> None:
    key = running.key()
    assert not any(hit(ask(running, key, temperature=0.5)) for _ in range(2)) and len(engine.asked) == 2


def test_plain_completions_are_kept_too(running: Running, engine: AnsweringEngine) -> None:
    headers = {"authorization": f"Bearer {running.key()}"}

    def complete(*prompts: str) -> requests.Response:
        body = {"model": "ticket_topics", "prompt": list(prompts)}
        return requests.post(f"{running.url}/v1/completions", json=body, headers=headers, timeout=10)

    assert [hit(complete("a")), hit(complete("a")), hit(complete("b", "a")), hit(complete("b", "a"))] == [
        False,
        True,
        False,
        True,
    ]
    assert len(engine.asked) == 2
