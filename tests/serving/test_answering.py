"""A request's way to an answer: who is asked in which order, what is counted, noted and shown of it."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from answering_engine import AnsweringEngine, Manner

from finetune_platform.database import Database
from finetune_platform.inference.chat import EngineError
from finetune_platform.serving.answering import Answering, Ask, Reply
from finetune_platform.serving.interaction_ids import Answered, InteractionIds
from finetune_platform.serving.plan import BASE, Plan, in_doubt, without
from finetune_platform.serving.served_task import ServedTask
from finetune_platform.serving.shadow import MOST_AT_ONCE, Shadow
from finetune_platform.serving.traffic import Counts, Traffic, forget, told
from finetune_platform.serving.write_ahead import NotLogged
from finetune_platform.task import Task

PLAN = Plan(champion="ad-1", previous_champion="ad-0", canary="ad-2", canary_share=1.0)
AWAY = EngineError(502, "the server is away")


@dataclass
class World:
    """Everything around one request; `plan` may be changed at any moment."""

    served: ServedTask
    engine: AnsweringEngine
    traffic: Traffic
    database: Database
    plan: Plan = field(default_factory=lambda: PLAN)
    noted: list[tuple[Ask, Reply, Any]] = field(default_factory=list)
    not_kept: bool = False

    def __post_init__(self) -> None:
        self.ids = InteractionIds(b"s" * 32)
        self.answering = Answering(lambda task: self.plan, self.ids, self.traffic, self.note)
        self.shadow = Shadow(lambda task: self.plan, self.answering)

    def note(self, ask: Ask, reply: Reply, answer: Any) -> "Future[None] | None":
        self.noted.append((ask, reply, answer))
        safe: Future[None] = Future()
        if self.not_kept:
            safe.set_exception(NotLogged("the disk is full", "free some space"))
        else:
            safe.set_result(None)
        return safe

    def ask(self, **request: Any) -> Ask:
        body = {"messages": [{"role": "user", "content": "My card was declined."}], **request}
        return Ask(self.served, body, "user-1", streamed=False)

    def complete(self, **request: Any) -> tuple[Reply, dict[str, Any]]:
        return asyncio.run(self.answering.complete(self.ask(**request)))

    def stream(self, read: int | None = None) -> tuple[Reply, list[str], str | None]:
        """Reads a stream to its end (or `read` chunks of it): the reply, its pieces of text, how it broke."""

        async def reading() -> tuple[Reply, list[str], str | None]:
            reply, chunks = await self.answering.stream(self.ask())
            pieces: list[str] = []
            async with aclosing(chunks):
                try:
                    async for chunk in chunks:
                        if read is not None and len(pieces) == read:
                            break
                        pieces += [choice["delta"].get("content", "") for choice in chunk["choices"]]
                except EngineError as error:
                    return reply, pieces, error.message
            return reply, pieces, None

        return asyncio.run(reading())

    def asked(self) -> list[str | None]:
        return [adapter for adapter, _ in self.engine.asked]

    def counted(self) -> dict[tuple[str, str], Counts]:
        """By arm and adapter."""
        self.traffic.tell()
        now = datetime.now(UTC)
        with self.database.reading() as session:
            rows = told(session, "topics", now - timedelta(days=1), now + timedelta(days=1))
        found: dict[tuple[str, str], Counts] = {}
        for row in rows:
            found.setdefault((row.key.arm, row.key.adapter), Counts()).add(row.counts)
        return found

    def figures(self) -> dict[tuple[str, str], tuple[int, int, int]]:
        """Requests, good ones and errors by arm and adapter."""
        return {key: (counts.n, counts.good, counts.errors) for key, counts in self.counted().items()}


@pytest.fixture(scope="module")
def counts_database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path_factory.mktemp('counts') / 'finetune.db'}")
    yield database
    database.close()


@pytest.fixture
def world(topics: Task, counts_database: Database) -> Iterator[World]:
    engine = AnsweringEngine()
    prompts = {adapter: f"prompt of {adapter}" for adapter in ("ad-0", "ad-1", "ad-2")}
    yield World(ServedTask(topics, engine, engine, prompts), engine, Traffic(counts_database, "gw-1"), counts_database)
    forget(counts_database, datetime.now(UTC) + timedelta(days=1))


def test_the_chosen_arm_answers_under_its_own_prompt_and_is_counted_and_noted_once(world: World) -> None:
    reply, answer = world.complete(max_tokens=3)
    assert (reply.choice, answer["choices"][0]["message"]["content"]) == (("canary", "ad-2"), "card")
    ((adapter, body),) = world.engine.asked
    assert (adapter, body["messages"][0]) == ("ad-2", {"role": "system", "content": "prompt of ad-2"})
    assert body["max_tokens"] == 3
    assert world.ids.read(reply.interaction_id, ["topics"]) == Answered("topics", "canary", "ad-2")
    ((_, noted, whole),) = world.noted
    assert noted is reply and whole is answer and reply.request == body
    assert (reply.text, reply.finish_reason, reply.format_valid, reply.error) == ("card", "stop", True, None)
    assert world.figures() == {("canary", "ad-2"): (1, 1, 0)}


@pytest.mark.parametrize(("text", "good", "invalid", "refusals"), [("a card", 0, 1, 0), ("I cannot", 0, 1, 1)])
def test_what_is_no_good_answer_is_told_apart(world: World, text: str, good: int, invalid: int, refusals: int) -> None:
    world.engine.manners["ad-2"] = Manner([text])
    world.complete()
    counts = world.counted()["canary", "ad-2"]
    assert (counts.n, counts.good, counts.invalid_format, counts.refusals) == (1, good, invalid, refusals)


def test_who_fails_is_followed_by_the_champion_the_one_before_and_the_base_model(world: World) -> None:
    for adapter in ("ad-2", "ad-1", "ad-0"):
        world.engine.manners[adapter] = Manner(error=AWAY)
    reply, _ = world.complete()
    assert world.asked() == ["ad-2", "ad-1", "ad-0", None]
    assert reply.choice == ("fallback", None)
    assert [(choice.adapter, why) for choice, why in reply.errors] == [
        ("ad-2", AWAY.message),
        ("ad-1", AWAY.message),
        ("ad-0", AWAY.message),
    ]
    assert world.figures() == {
        ("canary", "ad-2"): (1, 0, 1),
        ("fallback", "ad-1"): (1, 0, 1),
        ("fallback", "ad-0"): (1, 0, 1),
        ("fallback", BASE): (1, 1, 0),
    }
    assert len(world.noted) == 1


@pytest.mark.parametrize("streamed", [False, True])
def test_a_request_that_nobody_answers_is_noted_once_with_the_last_failure(world: World, streamed: bool) -> None:
    for adapter in ("ad-2", "ad-1", "ad-0", None):
        world.engine.manners[adapter] = Manner(error=EngineError(502, f"{adapter} is away"))
    with pytest.raises(EngineError, match="None is away"):
        world.stream() if streamed else world.complete()
    ((_, reply, answer),) = world.noted
    assert (reply.error, reply.choice.adapter, answer) == ("None is away", None, None)
    assert [why for _, why in reply.errors] == ["ad-2 is away", "ad-1 is away", "ad-0 is away"]
    assert world.engine.open_streams == 0


@pytest.mark.parametrize("streamed", [False, True])
def test_a_full_queue_is_not_passed_on_to_another_arm(world: World, streamed: bool) -> None:
    world.engine.manners["ad-2"] = Manner(error=EngineError(429, "too many requests are waiting", 2.0))
    with pytest.raises(EngineError) as refused:
        world.stream() if streamed else world.complete()
    assert (refused.value.status, refused.value.retry_after_s) == (429, 2.0)
    assert world.asked() == ["ad-2"]
    assert world.figures() == {("canary", "ad-2"): (1, 0, 1)}


@pytest.mark.parametrize("streamed", [False, True])
def test_a_request_that_is_itself_at_fault_ends_at_once_and_is_held_against_nobody(
    world: World, streamed: bool
) -> None:
    world.engine.manners["ad-2"] = Manner(error=EngineError(400, "tools: the model knows none"))
    with pytest.raises(EngineError, match="the model knows none"):
        world.stream() if streamed else world.complete()
    assert world.asked() == ["ad-2"]
    assert world.figures() == {} and world.noted == []


@pytest.mark.parametrize("streamed", [False, True])
def test_who_hangs_is_given_up_after_the_tasks_time(world: World, streamed: bool) -> None:
    serving = world.served.task.serving.model_copy(update={"timeout_s": 0.05})
    world.served.task = world.served.task.model_copy(update={"serving": serving})
    world.engine.manners["ad-2"] = Manner(hang_after=0)
    if streamed:
        reply, pieces, broken = world.stream()
        assert "".join(pieces) == "card" and broken is None
    else:
        reply, _ = world.complete()
    assert reply.choice == ("fallback", "ad-1")
    assert [why for _, why in reply.errors] == ["the model took too long"]
    assert world.figures()["canary", "ad-2"] == (1, 0, 1)
    assert world.engine.open_streams == 0


def test_a_stream_that_falls_silent_midway_is_broken_off(world: World) -> None:
    serving = world.served.task.serving.model_copy(update={"timeout_s": 0.05})
    world.served.task = world.served.task.model_copy(update={"serving": serving})
    world.engine.manners["ad-2"] = Manner(hang_after=1)
    reply, pieces, broken = world.stream()
    assert (pieces, broken, reply.error) == (["ca"], "the model took too long", "the model took too long")
    assert world.figures() == {("canary", "ad-2"): (1, 0, 1)} and len(world.noted) == 1
    assert world.engine.open_streams == 0


def test_an_adapter_that_is_not_ready_is_passed_over_without_being_blamed(world: World) -> None:
    del world.served.prompts["ad-2"]
    reply, _ = world.complete()
    assert reply.choice == ("fallback", "ad-1")
    assert world.figures() == {("fallback", "ad-1"): (1, 1, 0)}
    world.served.prompts.clear()
    world.served.task.serving.fallback.clear()
    with pytest.raises(EngineError, match="topics: nothing is ready to answer"):
        world.complete()


def test_an_adapter_withdrawn_while_it_answers_is_not_shown_another_answers(world: World) -> None:
    def withdraw(index: int) -> None:
        world.plan = without(world.plan, "ad-2")

    world.engine.manners["ad-2"] = Manner(["transfer"], meanwhile=withdraw)
    reply, answer = world.complete()
    assert world.asked() == ["ad-2", "ad-1"]
    assert answer["choices"][0]["message"]["content"] == "card"
    assert reply.choice == ("champion", "ad-1")
    assert world.figures() == {("champion", "ad-1"): (1, 1, 0)} and len(world.noted) == 1


@pytest.mark.parametrize("fate", ["rolled back", "killed", "unheard of"])
def test_a_stream_is_broken_off_when_its_adapter_may_not_answer_any_more(world: World, fate: str) -> None:
    """Rolled back, killed, or canary of a gateway that hears of no change; no arm is blamed for it."""

    def withdraw(index: int) -> None:
        if index == 1:
            world.plan = {
                "rolled back": without(PLAN, "ad-2"),
                "killed": PLAN.model_copy(update={"killed": "wrong"}),
                "unheard of": in_doubt(PLAN),
            }[fate]

    world.engine.manners["ad-2"] = Manner(["one ", "two ", "three"], meanwhile=withdraw)
    reply, pieces, broken = world.stream()
    assert pieces == ["one "]
    assert broken is not None and "withdrawn" in broken
    assert (reply.error, reply.text) == (broken, "one ")
    assert world.figures() == {} and len(world.noted) == 1
    assert world.engine.open_streams == 0


def test_an_answer_withdrawn_while_the_log_takes_it_is_not_shown(world: World) -> None:
    def slow_note(ask: Ask, reply: Reply, answer: Any) -> "Future[None]":
        safe: Future[None] = Future()

        def written() -> None:
            world.plan = without(PLAN, "ad-2")
            safe.set_result(None)

        threading.Timer(0.05, written).start()
        return safe

    slow = Answering(lambda task: world.plan, world.ids, world.traffic, slow_note)
    with pytest.raises(EngineError, match="withdrawn"):
        asyncio.run(slow.complete(world.ask()))


def test_a_stream_whose_adapter_is_withdrawn_before_its_first_piece_is_answered_by_another(world: World) -> None:
    def withdraw(index: int) -> None:
        world.plan = without(world.plan, "ad-2")

    world.engine.manners["ad-2"] = Manner(["one ", "two "], meanwhile=withdraw)
    reply, pieces, broken = world.stream()
    assert ("".join(pieces), broken, reply.choice) == ("card", None, ("champion", "ad-1"))
    assert world.engine.open_streams == 0


def test_a_whole_stream_is_counted_and_noted_like_a_whole_answer(world: World) -> None:
    reply, pieces, broken = world.stream()
    assert ("".join(pieces), broken) == ("card", None)
    assert (reply.text, reply.finish_reason, reply.prompt_tokens, reply.completion_tokens) == ("card", "stop", 5, 2)
    assert reply.format_valid is True and world.noted == [(world.noted[0][0], reply, None)]
    assert world.figures() == {("canary", "ad-2"): (1, 1, 0)}
    assert world.counted()["canary", "ad-2"].completion_tokens == 2


def test_a_reader_who_leaves_midway_is_counted_neither_good_nor_bad(world: World) -> None:
    reply, pieces, _ = world.stream(read=1)
    assert pieces == ["ca"]
    assert world.engine.open_streams == 0
    assert (reply.finish_reason, reply.text, reply.error) == ("cancelled", "card", None)
    assert world.figures() == {} and len(world.noted) == 1


def test_a_reader_who_is_cancelled_while_waiting_frees_the_engine(world: World) -> None:
    world.engine.manners["ad-2"] = Manner(hang_after=1)

    async def leave() -> None:
        _, chunks = await world.answering.stream(world.ask())

        async def read() -> None:
            async for _ in chunks:
                pass

        reading = asyncio.create_task(read())
        await asyncio.sleep(0.02)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)

    asyncio.run(leave())
    assert world.engine.open_streams == 0
    assert world.figures() == {} and [reply.finish_reason for _, reply, _ in world.noted] == ["cancelled"]


def test_a_stream_that_nobody_begins_to_read_frees_the_engine_when_it_is_closed(world: World) -> None:
    async def leave() -> None:
        _, chunks = await world.answering.stream(world.ask())
        assert world.engine.open_streams == 1
        await chunks.aclose()
        assert world.engine.open_streams == 0

    asyncio.run(leave())
    assert world.figures() == {} and [reply.finish_reason for _, reply, _ in world.noted] == ["cancelled"]


def test_a_reader_who_leaves_after_the_last_word_was_answered(world: World) -> None:
    reply, _, _ = world.stream(read=3)
    assert (reply.finish_reason, reply.text) == ("stop", "card")
    assert world.figures() == {("canary", "ad-2"): (1, 1, 0)}


def test_a_bug_of_an_engine_is_not_counted_as_a_good_answer(world: World) -> None:
    def bug(index: int) -> None:
        if index == 1:
            raise KeyError("bug")

    world.engine.manners["ad-2"] = Manner(meanwhile=bug)
    with pytest.raises(KeyError):
        world.stream()
    assert world.figures() == {}
    assert world.engine.open_streams == 0


def test_the_note_does_not_need_an_adapter_that_was_forgotten_in_the_meantime(world: World) -> None:
    world.engine.manners["ad-2"] = Manner(meanwhile=lambda index: world.served.prompts.clear())
    reply, _ = world.complete()
    assert reply.request["messages"][0]["content"] == "prompt of ad-2"
    assert len(world.noted) == 1


def test_an_interaction_that_cannot_be_kept_costs_nobody_an_answer(world: World) -> None:
    world.not_kept = True
    assert world.complete()[1]["choices"][0]["message"]["content"] == "card"
    assert "".join(world.stream()[1]) == "card"


SHADOWED = Plan(champion="ad-1", shadow="ad-2", shadow_share=1.0)


def test_a_shadows_answer_is_counted_and_noted_but_never_shown(world: World) -> None:
    world.plan = SHADOWED
    world.engine.manners["ad-2"] = Manner(["transfer"])

    async def ask() -> dict[str, Any]:
        _, answer = await world.answering.complete(world.ask())
        world.shadow.maybe(world.ask())
        await asyncio.sleep(0.02)
        await world.shadow.close()
        return answer

    assert asyncio.run(ask())["choices"][0]["message"]["content"] == "card"
    assert [(reply.choice.arm, reply.text) for _, reply, _ in world.noted] == [
        ("champion", "card"),
        ("shadow", "transfer"),
    ]
    assert world.figures() == {("champion", "ad-1"): (1, 1, 0), ("shadow", "ad-2"): (1, 1, 0)}


def test_a_shadow_that_fails_or_is_not_there_disturbs_nobody(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.plan = SHADOWED
    world.engine.manners["ad-2"] = Manner(error=AWAY)

    async def ask() -> None:
        world.shadow.maybe(world.ask())
        await asyncio.sleep(0.02)
        world.shadow.maybe(world.ask())
        world.served.prompts.clear()  # Unloaded before the copy is sent.
        await asyncio.sleep(0.02)
        world.shadow.maybe(world.ask())
        await asyncio.sleep(0.02)

    asyncio.run(ask())
    assert world.asked() == ["ad-2"]
    assert world.figures() == {("shadow", "ad-2"): (1, 0, 1)}
    assert [reply.error for _, reply, _ in world.noted] == [AWAY.message]
    assert caplog.records == []


def test_shadow_copies_beyond_a_few_at_a_time_are_dropped_and_given_up_at_the_end(world: World) -> None:
    world.plan = SHADOWED
    world.engine.manners["ad-2"] = Manner(hang_after=0)

    async def ask() -> None:
        for _ in range(MOST_AT_ONCE + 3):
            world.shadow.maybe(world.ask())
        await asyncio.sleep(0.02)
        await asyncio.wait_for(world.shadow.close(), 5)

    asyncio.run(ask())
    assert len(world.engine.asked) == MOST_AT_ONCE and world.shadow.dropped == 3
