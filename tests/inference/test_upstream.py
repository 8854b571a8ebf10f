"""An engine over servers that misbehave: what a caller gets, what is asked again, and what never gets through."""

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from misbehaving_server import ANSWER, BEHAVIOURS, BROKEN_OFF, CHUNKS, MALFORMED, MALFORMED_STREAMS, MisbehavingServer

from finetune_platform.inference.breaker import Breaker
from finetune_platform.inference.chat import EngineError, LoadedAdapter
from finetune_platform.inference.dispatch import Retries
from finetune_platform.inference.exchange import Timeouts
from finetune_platform.inference.upstream import UpstreamEngine

KEY = "sk-0123456789abcdef"
BODY = {"messages": [{"role": "user", "content": "Capital of France?"}], "temperature": 0, "model": "task", "stream": 1}
QUICK = Timeouts(0, connect_s=0.5, first_byte_s=0.5, silence_s=0.3)


def engine(*servers: MisbehavingServer | str, timeout_s: float = 10.0, **options: Any) -> UpstreamEngine:
    urls = [server if isinstance(server, str) else server.url for server in servers]
    options = {"retries": Retries(base_s=0.02)} | options
    return UpstreamEngine(urls, "gpt", KEY, timeout_s, **options)


def against(test: Callable[..., Awaitable[None]], servers: int = 1, **options: Any) -> None:
    """Runs a test with an engine over fresh servers; whatever happened, no request is left counted as under way."""

    async def run() -> None:
        started = [MisbehavingServer() for _ in range(servers)]
        for server in started:
            await server.__aenter__()
        built = engine(*started, **options)
        try:
            await test(built, *started)
            assert [(r.total, dict(r.in_flight)) for r in built.replicas] == [(0, {})] * servers
        finally:
            await built.close()
            for server in started:
                await server.__aexit__(None, None, None)

    asyncio.run(run())


async def streamed(built: UpstreamEngine) -> list[dict[str, Any]]:
    return [chunk async for chunk in built.stream(BODY, None)]


async def failure(awaitable: Awaitable[Any]) -> EngineError:
    with pytest.raises(EngineError) as caught:
        await awaitable
    assert KEY not in caught.value.message
    return caught.value


def text_of(chunks: list[dict[str, Any]]) -> str:
    return "".join(c["delta"].get("content") or "" for chunk in chunks for c in chunk["choices"])


def test_a_whole_answer() -> None:
    async def test(built: UpstreamEngine, server: MisbehavingServer) -> None:
        assert await built.complete(BODY, None) == ANSWER
        [seen] = server.seen
        assert seen.path == "/v1/chat/completions"
        assert seen.headers["Authorization"] == f"Bearer {KEY}"
        assert seen.body == {**BODY, "model": "gpt", "stream": False}

    against(test)


def test_a_stream_ends_with_usage_and_no_choice() -> None:
    async def test(built: UpstreamEngine, server: MisbehavingServer) -> None:
        chunks = await streamed(built)
        assert chunks[:-1] == CHUNKS
        assert (chunks[-1]["choices"], chunks[-1]["usage"]) == ([], ANSWER["usage"])
        assert server.seen[0].body["stream_options"] == {"include_usage": True}

    against(test)


@pytest.mark.parametrize("behaviour", ["stream_azure", "stream_without_done", "stream_without_usage"])
def test_streams_of_servers_with_habits_of_their_own(behaviour: str) -> None:
    async def test(built: UpstreamEngine, server: MisbehavingServer) -> None:
        server.next(behaviour)
        chunks = await streamed(built)
        assert chunks[:-1] == CHUNKS
        assert chunks[-1]["choices"] == []
        assert chunks[-1]["usage"]["completion_tokens"] == 2
        assert chunks[-1]["usage"].get("estimated", False) == (behaviour == "stream_without_usage")

    against(test)


def test_connections_are_used_again_after_answers_and_streams() -> None:
    async def test(built: UpstreamEngine, server: MisbehavingServer) -> None:
        for _ in range(5):
            server.next("answer", "stream", "stream_ends_late")
            await built.complete(BODY, None)
            await streamed(built)
            await streamed(built)
        assert len({seen.port for seen in server.seen}) <= 3  # of 15 requests; a busy machine may miss an end

    against(test)


@pytest.mark.parametrize("behaviour", MALFORMED)
def test_a_malformed_answer_never_gets_through(behaviour: str) -> None:
    async def test(built: UpstreamEngine, server: MisbehavingServer) -> None:
        server.next(behaviour)
        assert (await failure(built.complete(BODY, None))).status == 502
        assert len(server.seen) == 1  # a part of an answer came: it is not asked again
        await asyncio.sleep(0.05)
        assert server.abandoned == (behaviour == "huge")  # read no further than the limit

    against(test)


@pytest.mark.parametrize("behaviour", MALFORMED_STREAMS)
def test_a_malformed_stream_gives_no_chunk(behaviour: str) -> None:
    async def test(built: UpstreamEngine, server: MisbehavingServer) -> None:
        server.next(behaviour)
        chunks: list[Any] = []

        async def collect() -> None:
            async for chunk in built.stream(BODY, None):
                chunks.append(chunk)

        assert (await failure(collect())).status == 502
        assert chunks == []

    against(test)


@pytest.mark.parametrize("behaviour", BROKEN_OFF)
def test_a_stream_that_breaks_off_says_so_and_is_not_asked_again(behaviour: str) -> None:
    async def test(built: UpstreamEngine, server: MisbehavingServer) -> None:
        server.next(behaviour)
        chunks: list[Any] = []

        async def collect() -> None:
            async for chunk in built.stream(BODY, None):
                chunks.append(chunk)

        assert (await failure(collect())).status == (504 if "hang" in behaviour else 502)
        assert text_of(chunks) == "Par"
        assert len(server.seen) == 1

    against(test, timeouts=QUICK)


@pytest.mark.parametrize("behaviour", ["reset", "bad_gateway", "unavailable", "gateway_timeout", "unknown_model"])
@pytest.mark.parametrize("stream", [False, True])
def test_what_failed_before_an_answer_is_asked_again(behaviour: str, stream: bool) -> None:
    async def test(built: UpstreamEngine, server: MisbehavingServer) -> None:
        server.next(behaviour, behaviour)
        said = text_of(await streamed(built)) if stream else (await built.complete(BODY, None))["choices"]
        assert said == ("Paris." if stream else ANSWER["choices"])
        assert len(server.seen) == 3

    against(test)


@pytest.mark.parametrize(
    ("behaviour", "status"),
    [("reset", 502), ("bad_gateway", 502), ("unavailable", 503), ("gateway_timeout", 504), ("too_many", 429)],
)
def test_there_is_an_end_to_asking_again(behaviour: str, status: int) -> None:
    async def test(built: UpstreamEngine, server: MisbehavingServer) -> None:
        server.usually, server.retry_after = behaviour, "0"
        caught = await failure(built.complete(BODY, None))
        assert (caught.status, caught.callers_fault) == (status, False)
        assert len(server.seen) == 3

    against(test)


@pytest.mark.parametrize("behaviour", ["failing", "bad_key", "redirect", "bad_request", "hang"])
def test_what_would_fail_again_or_may_have_been_done_is_asked_once(behaviour: str) -> None:
    async def test(built: UpstreamEngine, server: MisbehavingServer) -> None:
        server.usually = behaviour
        caught = await failure(built.complete(BODY, None))
        assert len(server.seen) == 1
        assert caught.status == {"bad_request": 400, "hang": 504}.get(behaviour, 502)
        assert caught.callers_fault == (behaviour == "bad_request")

    against(test, timeouts=QUICK)


def test_the_callers_fault_is_told_in_the_servers_words_on_one_line_without_keys() -> None:
    async def test(built: UpstreamEngine, server: MisbehavingServer) -> None:
        server.usually = "bad_request"
        for i in range(12):
            caught = await failure(built.complete(BODY, None) if i % 2 else streamed(built))
            assert caught.message == "temperature must be in [0, 2] INFO forged line, key [key]"
        assert built.replicas[0].breaker.state == "closed"

    against(test)


def test_a_request_that_is_no_json_is_the_callers_fault() -> None:
    async def test(built: UpstreamEngine, server: MisbehavingServer) -> None:
        messages = [{"role": "user", "content": "\ud800"}]
        assert (await failure(built.complete({"messages": messages}, None))).status == 400
        assert server.seen == []

    against(test)


def test_retry_after_is_honoured_up_to_a_bound() -> None:
    async def test(built: UpstreamEngine, server: MisbehavingServer) -> None:
        server.next("too_many")
        started = time.perf_counter()
        assert await built.complete(BODY, None) == ANSWER
        assert 0.2 <= time.perf_counter() - started < 4
        server.retry_after = "3600"
        server.next("too_many")
        caught = await failure(built.complete(BODY, None))
        assert (caught.status, caught.retry_after_s) == (429, 3600)
        assert built.replicas[0].breaker.state == "closed"

    against(test)


def test_nobody_waits_for_a_busy_server_while_another_is_free() -> None:
    async def test(built: UpstreamEngine, busy: MisbehavingServer, free: MisbehavingServer) -> None:
        busy.usually, busy.retry_after = "too_many", "4.5"
        started = time.perf_counter()
        for _ in range(6):
            assert await built.complete(BODY, None) == ANSWER
        assert time.perf_counter() - started < 4
        assert busy.seen

    against(test, servers=2)


@pytest.mark.parametrize("behaviour", ["hang", "hang_after_headers"])
def test_a_silent_server_is_given_up_after_the_first_byte_time(behaviour: str) -> None:
    async def test(built: UpstreamEngine, server: MisbehavingServer) -> None:
        server.usually = behaviour
        started = time.perf_counter()
        assert (await failure(streamed(built))).status == 504
        assert 0.25 <= time.perf_counter() - started < 4
        await asyncio.sleep(0.05)
        assert server.abandoned == 1

    against(test, timeouts=QUICK)


@pytest.mark.parametrize("stream", [False, True])
def test_a_dripping_server_is_given_up_at_the_deadline(stream: bool) -> None:
    async def test(built: UpstreamEngine, server: MisbehavingServer) -> None:
        server.usually = "drip"
        started = time.perf_counter()
        chunks: list[Any] = []

        async def collect() -> None:
            async for chunk in built.stream(BODY, None):
                chunks.append(chunk)

        caught = await failure(collect() if stream else built.complete(BODY, None))
        assert caught.status == 504
        assert bool(chunks) == stream
        assert 0.9 <= time.perf_counter() - started < 4
        assert len(server.seen) == 1

    against(test, timeout_s=1.0)


def test_tries_and_pauses_together_stay_within_the_deadline() -> None:
    async def test(built: UpstreamEngine, server: MisbehavingServer) -> None:
        server.usually = "unavailable"
        started = time.perf_counter()
        assert (await failure(built.complete(BODY, None))).status == 503
        assert time.perf_counter() - started < 1.2

    against(test, timeout_s=1.0, retries=Retries(attempts=1000, base_s=0.5))


def test_a_caller_that_leaves_ends_the_work() -> None:
    async def test(built: UpstreamEngine, server: MisbehavingServer) -> None:
        server.next("hang_after_chunk", "hang")
        async with aclosing(built.stream(BODY, None)) as chunks:
            await anext(chunks)
        call = asyncio.create_task(built.complete(BODY, None))
        await asyncio.sleep(0.1)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        await asyncio.sleep(0.1)
        assert server.abandoned == 2
        assert built.replicas[0].breaker.state == "closed"

    against(test)


def test_a_failing_server_is_left_alone_and_tried_again_later() -> None:
    async def test(built: UpstreamEngine, server: MisbehavingServer) -> None:
        server.usually = "failing"
        statuses = [(await failure(built.complete(BODY, None))).status for _ in range(5)]
        assert statuses == [502, 502, 502, 503, 503]
        assert len(server.seen) == 3
        caught = await failure(built.complete(BODY, None))
        assert caught.retry_after_s is not None and 0 < caught.retry_after_s <= 1.0
        server.usually = "answer"
        await asyncio.sleep(1.0)
        # One of many goes through as the trial; once it has answered, all do.
        results = await asyncio.gather(*(built.complete(BODY, None) for _ in range(10)), return_exceptions=True)
        assert [r for r in results if not isinstance(r, EngineError)] == [ANSWER]
        assert await built.complete(BODY, None) == ANSWER

    against(test, breaker=lambda: Breaker(consecutive=3, open_s=1.0))


def test_a_stream_that_breaks_off_counts_as_a_failure() -> None:
    async def test(built: UpstreamEngine, server: MisbehavingServer) -> None:
        server.usually = "stream_truncated"
        for _ in range(2):
            await failure(streamed(built))
        assert built.replicas[0].breaker.state == "open"

    against(test, breaker=lambda: Breaker(consecutive=2))


def test_a_dead_server_costs_nothing_while_another_lives() -> None:
    async def run() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            closed = f"http://127.0.0.1:{taken.getsockname()[1]}"
        async with MisbehavingServer() as server:
            built = engine(closed, server)
            for _ in range(20):
                assert await built.complete(BODY, None) == ANSWER
            assert built.replicas[0].breaker.state == "open"
            await built.close()

    asyncio.run(run())


def test_the_server_with_the_fewest_requests_under_way_is_asked() -> None:
    async def test(built: UpstreamEngine, slow: MisbehavingServer, quick: MisbehavingServer) -> None:
        slow.usually, slow.pause_s = "slow", 0.25

        async def caller() -> None:
            for _ in range(10):
                await built.complete(BODY, None)
                await asyncio.sleep(0.01)

        await asyncio.gather(*(caller() for _ in range(4)))
        assert len(slow.seen) + len(quick.seen) == 40
        assert 2 <= len(slow.seen) <= 14

    against(test, servers=2)


def test_equal_servers_take_turns() -> None:
    async def test(built: UpstreamEngine, *servers: MisbehavingServer) -> None:
        for _ in range(30):
            await built.complete(BODY, None)
        assert [len(server.seen) for server in servers] == [10, 10, 10]

    against(test, servers=3)


@pytest.mark.parametrize("hedge", [False, True])
def test_a_second_server_is_asked_only_where_hedging_is_on(hedge: bool) -> None:
    async def test(built: UpstreamEngine, first: MisbehavingServer, second: MisbehavingServer) -> None:
        for _ in range(30):
            await built.complete(BODY, None)
        first.usually, first.pause_s = "slow", 1.0
        before, slowest = len(first.seen), 0.0
        for _ in range(4):
            started = time.perf_counter()
            assert await built.complete(BODY, None) == ANSWER
            slowest = max(slowest, time.perf_counter() - started)
        assert len(first.seen) > before
        assert (slowest < 0.9) == hedge
        await asyncio.sleep(0.05)
        assert (first.abandoned > 0) == hedge  # the loser was cancelled

    against(test, servers=2, hedge=hedge)


def test_it_has_no_adapters(tmp_path: Path) -> None:
    async def test(built: UpstreamEngine, server: MisbehavingServer) -> None:
        caught = await failure(built.load(LoadedAdapter("ad-1", tmp_path)))
        assert caught.callers_fault
        assert "cannot load adapters" in caught.message
        await built.unload("ad-1")
        assert await built.loaded() == set()
        # Another engine may have it: the fallback must be asked.
        assert not (await failure(built.complete(BODY, "ad-1"))).callers_fault
        assert server.seen == []

    against(test)


SHORT = [b for b in BEHAVIOURS if not b.startswith(("huge", "stream_huge", "slow"))]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(behaviours=st.lists(st.sampled_from(SHORT), min_size=1, max_size=6), stream=st.booleans())
def test_any_run_of_misbehaviour_ends_in_an_answer_or_an_engine_error(behaviours: list[str], stream: bool) -> None:
    async def test(built: UpstreamEngine, server: MisbehavingServer) -> None:
        server.next(*behaviours)
        for _ in behaviours:
            started = time.perf_counter()
            try:
                if stream:
                    chunks = await streamed(built)
                    assert text_of(chunks) == "Paris."
                    assert chunks[-1]["choices"] == [] and "usage" in chunks[-1]
                else:
                    answer = await built.complete(BODY, None)
                    assert answer["choices"] == ANSWER["choices"] and "usage" in answer
            except EngineError as error:
                assert 400 <= error.status < 600
                assert "\n" not in error.message and KEY not in error.message
            assert time.perf_counter() - started < 1.5

    against(
        test,
        timeout_s=0.5,
        timeouts=Timeouts(0, connect_s=0.2, first_byte_s=0.2, silence_s=0.1),
        retries=Retries(base_s=0.01, max_retry_after_s=0.3),
    )
