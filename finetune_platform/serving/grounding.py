"""Passages for requests: the newest index of every served task that names a corpus, and what it has on a question.

An answer never waits long for passages and never fails for want of them: it is then given without, which is counted
and logged. Searching itself is `retrieval/`'s.
"""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from finetune_platform.database import Database
from finetune_platform.inference.passing_thread import in_passing_thread
from finetune_platform.lake import Lake
from finetune_platform.retrieval.index import Index, Passage
from finetune_platform.retrieval.newest import load_copy, newest_index
from finetune_platform.retrieval.prompt import question_of
from finetune_platform.serving.answering import Ask
from finetune_platform.serving.metrics import Metrics
from finetune_platform.serving.served_task import ServedTask

LOOK_S = 5.0
"""How long a new index may go unnoticed."""

AT_ONCE = 32
"""Questions whose vectors are made together."""

log = logging.getLogger(__name__)

Found = tuple[Sequence[Passage], BaseException | None]


class Grounding:
    """The indexes of all served tasks with a `retrieval` section.

    Args:
        tasks: By name.
        lake: Where indexes are.
        database: Says which is the newest.
        cache_dir: Local copies of indexes and models.
        metrics: Counts what became of retrievals.
    """

    def __init__(
        self, tasks: Mapping[str, ServedTask], lake: Lake, database: Database, cache_dir: Path, metrics: Metrics
    ) -> None:
        self._lake, self._database, self._cache_dir, self._metrics = lake, database, cache_dir, metrics
        self._searches = {name: Search(served) for name, served in tasks.items() if served.task.retrieval is not None}
        self.failures: dict[str, str] = {}
        """Why tasks have no index, or an older one than they could."""

    async def run(self) -> None:
        """Keeps the indexes new, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            await self.look()

    async def look(self) -> None:
        """Takes up indexes that were made since the last look."""
        for name, search in self._searches.items():
            looking = asyncio.wrap_future(in_passing_thread(partial(self._newer, search)))
            await asyncio.wait([looking])
            # Whatever is wrong with an index, its files or its model must not end the gateway.
            if (error := looking.exception()) is not None:
                if self.failures.get(name) != str(error):
                    log.error("%s: no new index: %s", name, error)
                self.failures[name] = str(error)
                continue
            self.failures.pop(name, None)
            if (newer := looking.result()) is not None:
                search.index = newer
                log.info("%s: passages come from %s", name, newer.manifest.artifact_id)

    async def grounded(self, ask: Ask) -> Ask:
        """The request with the passages that its last question finds; as it is where its task names no corpus."""
        name = ask.served.name
        if (search := self._searches.get(name)) is None:
            return ask
        question = question_of(ask.request["messages"])
        if not question.strip():
            return self._without(ask, "no_question")
        if search.index is None:
            return self._without(ask, "no_index")
        started = time.perf_counter()
        found = await search.find(question)
        self._metrics.retrieval_seconds.labels(name).observe(time.perf_counter() - started)
        if found is None:
            return self._without(ask, "timeout")
        passages, error = found
        if error is not None:
            log.error("%s: retrieval failed: %s", name, error)
            return self._without(ask, "failed")
        self._metrics.retrievals.labels(name, "found").inc()
        return replace(ask, passages=passages)

    def _without(self, ask: Ask, outcome: str) -> Ask:
        self._metrics.retrievals.labels(ask.served.name, outcome).inc()
        return replace(ask, passages=())

    def _newer(self, search: "Search") -> Index | None:
        """The newest index of a task where it is not the one that is searched."""
        task = search.served.task
        index_id = newest_index(task, self._database)
        if index_id is None or (search.index is not None and search.index.manifest.artifact_id == index_id):
            return None
        return load_copy(task, index_id, self._lake, self._cache_dir, log.info)


class Search:
    """One task's questions, searched in a thread; those that come meanwhile go together next."""

    def __init__(self, served: ServedTask) -> None:
        assert served.task.retrieval is not None  # the only tasks that are searched for
        self.served, self._wanted = served, served.task.retrieval
        self.index: Index | None = None
        self._waiting: list[tuple[str, asyncio.Future[Found]]] = []
        self._working: asyncio.Task[None] | None = None

    async def find(self, question: str) -> Found | None:
        """The passages or why there are none; None where the task's time is over first."""
        answer: asyncio.Future[Found] = asyncio.get_running_loop().create_future()
        self._waiting.append((question, answer))
        if self._working is None or self._working.done():
            self._working = asyncio.create_task(self._work())
        try:
            await asyncio.wait([answer], timeout=self._wanted.timeout_s)
            return answer.result() if answer.done() else None
        finally:
            # Nobody waits any more: it is not searched for, if it has not been.
            answer.cancel()

    async def _work(self) -> None:
        while batch := self._next():
            assert self.index is not None  # nothing is asked before there is one
            questions = [question for question, _ in batch]
            searching = in_passing_thread(partial(self.index.search_all, questions, self._wanted.top_k))
            search = asyncio.wrap_future(searching)
            await asyncio.wait([search])
            error = search.exception()
            for place, (_, answer) in enumerate(batch):
                if not answer.done():
                    answer.set_result(((), error) if error is not None else (search.result()[place], None))

    def _next(self) -> list[tuple[str, asyncio.Future[Found]]]:
        wanted = [(question, answer) for question, answer in self._waiting if not answer.done()]
        self._waiting = wanted[AT_ONCE:]
        return wanted[:AT_ONCE]
