"""A judge: how good answers are, said by a function or by a model that is asked; no gold answer is needed.

What a judge's scores are worth, and what follows from them, belongs to whoever asks.
"""

import asyncio
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import orjson

from finetune_platform.errors import BadInput
from finetune_platform.identity import content_id
from finetune_platform.inference.chat import EngineError
from finetune_platform.inference.dispatch import Retries
from finetune_platform.inference.engines import upstream_key
from finetune_platform.inference.upstream import UpstreamEngine
from finetune_platform.progress import Report
from finetune_platform.task_judge import Judge
from finetune_platform.user_functions import user_function

Outcome = Literal["scored", "unreadable", "failed"]

SHOWN = 80
"""Characters of an unreadable answer that are told."""

REPORT_EVERY = 50


class Judgement(NamedTuple):
    """What became of one question to the judge.

    Attributes:
        score: In [0, 1]; None unless scored.
        outcome: "unreadable" where he answered something else than a score, and would again; "failed" where no answer
            came.
        problem: What went wrong.
    """

    score: float | None
    outcome: Outcome
    problem: str = ""


class Judges(Protocol):
    """Scores answers; `judge_id` changes when the same answer may get another score."""

    judge_id: str

    def judge(self, rows: Sequence[tuple[str, str]], report: Report) -> list[Judgement]:
        """One judgement for each (question, answer)."""
        ...


def build_judge(judge: Judge, api_keys: Mapping[str, str]) -> Judges:
    """The judge of a task.

    Args:
        judge: The task file's section.
        api_keys: What `api_key` names are looked up in.

    Raises:
        BadInput: His function cannot be imported, or his key is not there.
    """
    if judge.scorer is not None:
        named = user_function(judge.scorer, "judge.scorer")
        return FunctionJudge(judge.scorer, named.call, content_id("jd", [judge.scorer, named.source_id]))
    return ModelJudge(judge, upstream_key(judge.api_key, api_keys, "judge"))


class FunctionJudge:
    """A function `(question, answer) -> float`."""

    def __init__(self, name: str, function: Callable[[str, str], float], judge_id: str) -> None:
        self.judge_id = judge_id
        self._name, self._function = name, function

    def judge(self, rows: Sequence[tuple[str, str]], report: Report) -> list[Judgement]:
        return [Judgement(self._score(question, answer), "scored") for question, answer in rows]

    def _score(self, question: str, answer: str) -> float:
        value = float(self._function(question, answer))
        if not (math.isfinite(value) and 0.0 <= value <= 1.0):
            raise BadInput(
                f"judge.scorer: {self._name}: returned {value} for {answer[:SHOWN]!r}", "return a number from 0 to 1"
            )
        return value


class ModelJudge:
    """A model behind OpenAI-compatible servers, asked row by row, several rows at a time."""

    def __init__(self, judge: Judge, api_key: str | None) -> None:
        self.judge_id = content_id("jd", [judge.model, judge.prompt, judge.max_tokens])
        self._judge, self._key = judge, api_key

    def judge(self, rows: Sequence[tuple[str, str]], report: Report) -> list[Judgement]:
        return asyncio.run(self._all(rows, report))

    async def _all(self, rows: Sequence[tuple[str, str]], report: Report) -> list[Judgement]:
        settings = self._judge
        assert settings.model is not None  # the task model refuses urls without it
        tries = Retries(attempts=1 + settings.retries)
        engine = UpstreamEngine(settings.urls, settings.model, self._key, settings.timeout_s, retries=tries)
        places, done = asyncio.Semaphore(settings.concurrency), 0

        async def one(question: str, answer: str) -> Judgement:
            nonlocal done
            async with places:
                judgement = await self._asked(engine, question, answer)
            done += 1
            if done % REPORT_EVERY == 0:
                report(f"{done:,} of {len(rows):,} answers are judged")
            return judgement

        try:
            return list(await asyncio.gather(*(one(question, answer) for question, answer in rows)))
        finally:
            await engine.close()

    async def _asked(self, engine: UpstreamEngine, question: str, answer: str) -> Judgement:
        body = {
            "messages": [{"role": "user", "content": filled(self._judge.prompt or "", question, answer)}],
            "temperature": 0,
            "max_tokens": self._judge.max_tokens,
        }
        try:
            told = await engine.complete(body, None)
        except EngineError as error:
            return Judgement(None, "failed", error.message)
        text = str(told["choices"][0]["message"].get("content") or "")
        score = read_score(text)
        if score is None:
            said = f'the judge answered "{text[:SHOWN]}"; it must be a number from 0 to 1, yes, no, or JSON with score'
            return Judgement(None, "unreadable", said)
        return Judgement(score, "scored")


def filled(prompt: str, question: str, answer: str) -> str:
    """The prompt with both texts in place, in one pass: a question that holds `{answer}` stays as it was asked."""
    texts = {"{question}": question, "{answer}": answer}
    return re.sub(r"\{question\}|\{answer\}", lambda found: texts[found.group()], prompt)


def read_score(text: str) -> float | None:
    """The score that a judge's words say: a number from 0 to 1, `yes` or `no`, or JSON with such a `score`; else None.

    Nothing is searched for within other words: "7 out of 10" and "I would not say yes" are no scores.
    """
    said = text.strip()
    if (word := said.rstrip(".").lower()) in ("yes", "no"):
        return float(word == "yes")
    try:
        value: Any = orjson.loads(said)
    except orjson.JSONDecodeError:
        return None
    if isinstance(value, dict):
        value = value.get("score")
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 <= value <= 1.0:
        return None
    return float(value)
