"""The in-process engine: the answers of transformers one at a time, whatever else runs, joins, leaves or loads."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_adapters import generated, save_adapter

from finetune_platform.inference.chat import ChatEngine, EngineError, LoadedAdapter
from finetune_platform.inference.chat_request import read_request
from finetune_platform.inference.in_process import InProcessEngine

PROMPT = "Answer with the topic of this support ticket, one word: card, transfer or login. Answer with nothing else."
TICKETS = [
    "My card was declined.",
    "The transfer to my landlord is late, and nobody answers the phone about it since Monday morning.",
    "Locked out!",
    "I cannot log in with my new phone; the old one is gone. " * 30,
    "Card?",
    "Where is my money",
    "The app says that my password is wrong",
]
TOKENS = 10


def chat(ticket: str, **options: Any) -> dict[str, Any]:
    messages = [{"role": "system", "content": PROMPT}, {"role": "user", "content": ticket}]
    return {"messages": messages, "max_tokens": TOKENS, **options}


def text(answer: dict[str, Any]) -> str:
    return str(answer["choices"][0]["message"]["content"])


@pytest.fixture(scope="module")
def folders(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("adapters")
    return {f"ad-{seed}": save_adapter(tiny_model, root / f"ad-{seed}", seed) for seed in range(1, 5)}


@pytest.fixture(scope="module")
def expected(tiny_model: Path, folders: dict[str, Path]) -> dict[tuple[str | None, str], str]:
    """What transformers and PEFT answer each ticket with, one request at a time."""
    engine = InProcessEngine(tiny_model, dtype="float32", device="cpu")
    prompts = [engine.encode(read_request(chat(ticket))) for ticket in TICKETS]
    answers = {}
    for adapter in (None, *folders):
        tokens = generated(tiny_model, None if adapter is None else folders[adapter], prompts, TOKENS)
        for ticket, ids in zip(TICKETS, tokens, strict=True):
            answers[adapter, ticket] = str(engine.tokenizer.decode(ids, skip_special_tokens=True))
    asyncio.run(engine.close())
    return answers


@pytest.fixture
def with_engine(tiny_model: Path) -> Iterator[Callable[..., Any]]:
    """Runs a coroutine function on a fresh engine and closes it."""

    def run(use: Callable[[InProcessEngine], Awaitable[Any]], **options: Any) -> Any:
        async def whole() -> Any:
            engine = InProcessEngine(tiny_model, dtype="float32", device="cpu", **options)
            try:
                return await asyncio.wait_for(use(engine), 120)
            finally:
                await engine.close()

        return asyncio.run(whole())

    yield run


async def load(engine: ChatEngine, folders: dict[str, Path]) -> None:
    for adapter, folder in folders.items():
        await engine.load(LoadedAdapter(adapter, folder))


def test_the_adapters_of_the_tests_answer_differently(expected: dict[tuple[str | None, str], str]) -> None:
    for ticket in TICKETS:
        answers = [answer for (_, asked), answer in expected.items() if asked == ticket]
        assert len(set(answers)) == len(answers)


@pytest.mark.parametrize("max_rows", [1, 3, 16])
def test_answers_of_mixed_adapters_equal_transformers(
    with_engine: Callable[..., Any],
    folders: dict[str, Path],
    expected: dict[tuple[str | None, str], str],
    max_rows: int,
) -> None:
    async def use(engine: InProcessEngine) -> None:
        await load(engine, folders)
        pairs = [(a, t) for t in TICKETS for a in (None, *folders)]
        answers = await asyncio.gather(*(engine.complete(chat(t), a) for a, t in pairs))
        assert {p: text(a) for p, a in zip(pairs, answers, strict=True)} == expected

    with_engine(use, max_rows=max_rows)


def test_the_answer_is_openais_object(
    with_engine: Callable[..., Any], folders: dict[str, Path], expected: dict[tuple[str | None, str], str]
) -> None:
    async def use(engine: InProcessEngine) -> None:
        from openai.types.chat import ChatCompletion

        await load(engine, folders)
        prompt = len(engine.encode(read_request(chat(TICKETS[0]))))
        cached = []
        for _ in range(3):
            raw = await engine.complete(chat(TICKETS[0], temperature=0, user="u"), "ad-1")
            answer = ChatCompletion.model_validate(raw, strict=True)
            usage = answer.usage
            assert usage and usage.prompt_tokens_details
            assert (usage.prompt_tokens, usage.completion_tokens) == (prompt, TOKENS)
            assert usage.total_tokens == prompt + TOKENS
            assert (answer.model, answer.choices[0].finish_reason) == ("ad-1", "length")
            assert answer.choices[0].message.content == expected["ad-1", TICKETS[0]]
            cached.append(usage.prompt_tokens_details.cached_tokens)
        # Two prompts show what they share; the third finds it, all but the last token.
        assert cached == [0, 0, prompt - 1]

    with_engine(use)


def test_a_stream_adds_up_to_the_answer_and_ends_with_usage(
    with_engine: Callable[..., Any], folders: dict[str, Path], expected: dict[tuple[str | None, str], str]
) -> None:
    async def streamed(engine: InProcessEngine, ticket: str, adapter: str | None) -> str:
        from openai.types.chat import ChatCompletionChunk

        chunks = [
            ChatCompletionChunk.model_validate(c, strict=True) async for c in engine.stream(chat(ticket), adapter)
        ]
        assert chunks[0].choices[0].delta.role == "assistant"
        assert chunks[-2].choices[0].finish_reason in ("stop", "length")
        assert not chunks[-1].choices and chunks[-1].usage and chunks[-1].usage.completion_tokens <= TOKENS
        assert len({c.id for c in chunks}) == 1
        pieces = [c.choices[0].delta.content or "" for c in chunks[:-1]]
        assert sum(map(bool, pieces)) > 1
        return "".join(pieces)

    async def use(engine: InProcessEngine) -> None:
        await load(engine, folders)
        pairs = list(expected)
        answers = await asyncio.gather(*(streamed(engine, t, a) for a, t in pairs))
        assert dict(zip(pairs, answers, strict=True)) == expected

    with_engine(use)


def test_stop_strings_end_the_answer_before_them(
    with_engine: Callable[..., Any], folders: dict[str, Path], expected: dict[tuple[str | None, str], str]
) -> None:
    whole = expected["ad-2", TICKETS[0]]
    stop = whole[len(whole) // 2 : len(whole) // 2 + 5]

    async def use(engine: InProcessEngine) -> None:
        await load(engine, folders)
        answer = await engine.complete(chat(TICKETS[0], stop=[stop, "never"]), "ad-2")
        assert text(answer) == whole[: whole.index(stop)]
        assert answer["choices"][0]["finish_reason"] == "stop"
        assert answer["usage"]["completion_tokens"] < TOKENS

    with_engine(use)


def test_a_seed_gives_the_same_answer_alone_and_in_company(with_engine: Callable[..., Any]) -> None:
    async def use(engine: InProcessEngine) -> None:
        body = chat(TICKETS[0], temperature=1.0, top_p=0.9, seed=7)
        alone = text(await engine.complete(body, None))
        others = [engine.complete(chat(t, temperature=1.0), None) for t in TICKETS]
        together = await asyncio.gather(engine.complete(body, None), *others)
        assert text(together[0]) == alone != text(await engine.complete({**body, "seed": 8}, None))

    with_engine(use)


def test_what_does_not_fit_or_is_not_understood_is_the_callers_fault(with_engine: Callable[..., Any]) -> None:
    async def use(engine: InProcessEngine) -> None:
        tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
        for body, message in (
            (chat("word " * 3000), "exceed the context of 2048 tokens"),
            (chat("hi", max_tokens=2048), "max_tokens 2048 exceed"),
            (chat("hi", n=2), "^n: "),
            (chat("hi", tools=[tool]), "^tools: the model's chat template knows none"),
            ({"messages": [{"content": "no role"}]}, "chat template refuses"),
        ):
            with pytest.raises(EngineError, match=message) as refused:
                await engine.complete(body, None)
            assert refused.value.status == 400
        assert text(await engine.complete(chat(TICKETS[0]), None))

    with_engine(use)


def test_a_full_queue_refuses_and_says_when_to_come_back(with_engine: Callable[..., Any]) -> None:
    async def use(engine: InProcessEngine) -> None:
        long = chat("hello", max_tokens=60)
        found = await asyncio.gather(*(engine.complete(long, None) for _ in range(9)), return_exceptions=True)
        refused = [f for f in found if isinstance(f, EngineError)]
        assert len(refused) == 9 - (2 + 3)
        assert all(e.status == 429 and e.retry_after_s and 0 < e.retry_after_s <= 60 for e in refused)
        assert all(isinstance(f, dict) for f in found if not isinstance(f, EngineError))
        assert text(await engine.complete(chat("hello"), None))

    with_engine(use, max_rows=2, max_waiting=3)


def test_cancelling_and_closing_a_stream_free_the_place(with_engine: Callable[..., Any]) -> None:
    async def use(engine: InProcessEngine) -> None:
        endless = chat("hello", max_tokens=1500)
        for _ in range(3):
            task = asyncio.create_task(engine.complete(endless, None))
            waiting = asyncio.create_task(engine.complete(endless, None))
            while not engine.batch._running:
                await asyncio.sleep(0.01)
            waiting.cancel()
            task.cancel()
            stream = engine.stream(endless, None)
            assert (await anext(stream))["choices"]
            await stream.aclose()  # type: ignore[attr-defined]
        # One place, and each of the nine would have taken seconds to end by itself.
        assert text(await asyncio.wait_for(engine.complete(chat("hello"), None), 2))
        await asyncio.sleep(0.05)
        assert not engine.batch._running and not engine.batch._waiting and not engine.model.cache.columns

    with_engine(use, max_rows=1)


def test_unloading_waits_for_those_in_flight_and_refuses_new_ones(
    with_engine: Callable[..., Any], folders: dict[str, Path]
) -> None:
    async def use(engine: InProcessEngine) -> None:
        await load(engine, folders)
        await load(engine, folders)
        assert await engine.loaded() == set(folders)
        running = asyncio.create_task(engine.complete(chat("hello", max_tokens=150), "ad-1"))
        while not engine.batch._running:
            await asyncio.sleep(0.005)
        unloading = [asyncio.create_task(engine.unload("ad-1")) for _ in range(2)]
        reloading = asyncio.create_task(engine.load(LoadedAdapter("ad-1", folders["ad-1"])))
        await asyncio.sleep(0.02)
        assert await engine.loaded() == set(folders) - {"ad-1"}
        with pytest.raises(EngineError, match="ad-1 is not loaded") as refused:
            await engine.complete(chat("hello"), "ad-1")
        assert refused.value.status == 503
        assert not any(task.done() for task in (*unloading, running))
        assert text(await running)
        await asyncio.gather(*unloading, reloading)
        assert await engine.loaded() == set(folders)
        await engine.unload("never there")

    with_engine(use)


def test_an_adapter_that_is_not_plain_lora_is_no_adapter_here(
    with_engine: Callable[..., Any], tiny_model: Path, tmp_path: Path
) -> None:
    dora = save_adapter(tiny_model, tmp_path / "dora", 1, use_dora=True)

    async def use(engine: InProcessEngine) -> None:
        with pytest.raises(EngineError, match="not supported by the in-process engine: use_dora=True"):
            await engine.load(LoadedAdapter("ad-d", dora))
        assert await engine.loaded() == set()

    with_engine(use)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_crash_of_the_scheduler_is_told_to_everybody(
    with_engine: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def use(engine: InProcessEngine) -> None:
        requests = [asyncio.create_task(engine.complete(chat("hello", max_tokens=900), None)) for _ in range(4)]
        while len(engine.batch._running) < 2:
            await asyncio.sleep(0.005)

        def broken(work: Any) -> None:
            raise MemoryError("no room for keys and values")

        monkeypatch.setattr(engine.model, "forward", broken)
        for found in await asyncio.gather(*requests, return_exceptions=True):
            assert isinstance(found, EngineError) and found.status == 503
            assert "MemoryError: no room" in found.message
        for later in (engine.complete(chat("hello"), None), engine.loaded(), engine.unload("ad-1")):
            with pytest.raises(EngineError, match="has stopped: MemoryError"):
                await later

    with_engine(use, max_rows=2)


def test_closing_breaks_off_what_is_unfinished(tiny_model: Path) -> None:
    async def use() -> None:
        engine = InProcessEngine(tiny_model, dtype="float32", device="cpu")
        request = asyncio.create_task(engine.complete(chat("hello", max_tokens=1500), None))
        while not engine.batch._running:
            await asyncio.sleep(0.005)
        await engine.close()
        with pytest.raises(EngineError, match="closed"):
            await request

    asyncio.run(use())


def test_a_thousand_requests_amid_loads_and_unloads_are_never_answered_by_another_adapter(
    with_engine: Callable[..., Any], folders: dict[str, Path], expected: dict[tuple[str | None, str], str]
) -> None:
    async def use(engine: InProcessEngine) -> None:
        chance = random.Random(4)
        answered: list[str | None] = []
        left = iter(range(1000))

        async def client() -> None:
            for _ in left:
                adapter, ticket = chance.choice([None, *folders]), chance.choice([t for t in TICKETS if len(t) < 200])
                try:
                    answer = await engine.complete(chat(ticket), adapter)
                except EngineError as error:
                    assert adapter is not None and "is not loaded" in error.message
                    await asyncio.sleep(0.01)
                else:
                    assert text(answer) == expected[adapter, ticket]
                    answered.append(adapter)

        async def operator() -> None:
            while True:
                adapter = chance.choice(list(folders))
                if chance.random() < 0.6:
                    await engine.load(LoadedAdapter(adapter, folders[adapter]))
                else:
                    await engine.unload(adapter)
                await asyncio.sleep(0.01)

        await load(engine, folders)
        operating = asyncio.create_task(operator())
        await asyncio.gather(*(client() for _ in range(12)))
        assert not operating.done()
        operating.cancel()
        assert len(answered) > 400
        assert set(answered) == {None, *folders}

    with_engine(use, max_rows=8)


@pytest.mark.parametrize("huge", ["lora_A", "lora_B"])
def test_an_adapter_whose_numbers_overflow_leaves_nothing_behind(
    with_engine: Callable[..., Any],
    folders: dict[str, Path],
    expected: dict[tuple[str | None, str], str],
    tiny_model: Path,
    tmp_path: Path,
    huge: str,
) -> None:
    """Neither in the slot of its row nor in its place among the adapters."""
    from safetensors.torch import load_file, save_file

    folder = save_adapter(tiny_model, tmp_path / "huge", 9, r=16)
    file = folder / "adapter_model.safetensors"
    save_file({n: w.sign() * 1e38 if huge in n else w for n, w in load_file(file).items()}, file)

    async def use(engine: InProcessEngine) -> None:
        await engine.load(LoadedAdapter("huge", folder))
        with pytest.raises(EngineError, match="no numbers"):
            await engine.complete(chat(TICKETS[1]), "huge")
        await engine.unload("huge")
        await load(engine, folders)
        for adapter in (None, *folders):
            # The longer one comes to look at the columns that the shorter one's slot had before.
            answers = await asyncio.gather(*(engine.complete(chat(TICKETS[i]), adapter) for i in (4, 3)))
            assert [text(answer) for answer in answers] == [expected[adapter, TICKETS[i]] for i in (4, 3)]

    with_engine(use, max_rows=2)
