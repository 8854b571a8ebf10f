"""Continuous batching: one thread steps over all rows in flight; rows join and leave between steps.

A step takes the next token of every row that writes and a bounded part of the prompts that are still to be read, so
a long prompt never stalls the others for long. Requests and responses as JSON belong in `in_process.py`.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING

import torch

from finetune_platform.inference.adapter_files import AdapterWeights
from finetune_platform.inference.answer_text import AnswerText
from finetune_platform.inference.chat import EngineError
from finetune_platform.inference.ragged_model import RaggedModel, Work
from finetune_platform.inference.requests_in_flight import Ended, Piece, Row
from finetune_platform.inference.sampling import Draw, next_tokens
from finetune_platform.inference.shared_prefixes import SharedPrefixes

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

READ_TOKENS = {"cpu": 256, "cuda": 4096}
"""Most prompt tokens a step: half a second of two cores for a model of 135M parameters, milliseconds on a GPU."""

LINGER = 0.05
"""Share of a step's time that the next one may be late for rows that come in where others have just left."""

PREFIX_TOKENS = 8_192
"""Most tokens of shared prefixes, all adapters together."""


class ContinuousBatch:
    """The scheduler of one model.

    Args:
        build: Makes the model, in the scheduler's thread, which alone uses it. OpenMP keeps helpers for every thread
            that computes, and once they are more than the cores each product waits until its helpers are awake: had
            another thread computed for a moment, the model would be half as fast from then on.
        tokenizer: For pieces of text.
        max_rows: Most rows in flight.
        max_waiting: Most rows that wait for a place.

    Raises:
        Exception: What `build` raises.
    """

    model: RaggedModel

    def __init__(
        self,
        build: Callable[[], RaggedModel],
        tokenizer: "PreTrainedTokenizerBase",
        *,
        max_rows: int,
        max_waiting: int,
    ) -> None:
        self.tokenizer = tokenizer
        self.max_rows, self.max_waiting = max_rows, max_waiting
        self.ready: set[str] = set()
        self.failure: EngineError | None = None
        self._prefixes = SharedPrefixes(PREFIX_TOKENS)
        self._changed = threading.Condition()
        self._waiting: deque[Row] = deque()
        self._running: list[Row] = []
        self._loading: deque[tuple[str, AdapterWeights, Future[None]]] = deque()
        self._leaving: dict[str, list[Future[None]]] = {}
        self._finished: deque[float] = deque(maxlen=64)
        self._closing = False
        self._left = 0
        self._step_s = 0.0
        built: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, args=(build, built), name="continuous-batch", daemon=True)
        self._thread.start()
        built.result()

    def check(self, adapter: str | None) -> None:
        """Raises the error that a row with this adapter would meet now.

        Raises:
            EngineError: The queue is full (429); the adapter is not loaded, or the engine has stopped (503).
        """
        if self.failure is not None:
            raise self.failure
        if adapter is not None and adapter not in self.ready:
            raise EngineError(503, f"adapter {adapter} is not loaded")
        if len(self._waiting) + len(self._running) >= self.max_rows + self.max_waiting:
            raise EngineError(429, "too many requests are waiting", self._seconds_until_room())

    def submit(self, row: Row) -> None:
        """Queues a row.

        Raises:
            EngineError: As `check`.
        """
        with self._changed:
            self.check(row.adapter)
            self._waiting.append(row)
            self._changed.notify()

    def cancel(self, row: Row) -> None:
        """The row leaves before the next step; it is told nothing more."""
        with self._changed:
            row.cancelled = True
            self._changed.notify()

    def load(self, adapter_id: str, weights: AdapterWeights) -> "Future[None]":
        """Adds an adapter between two steps; one that is leaving has left first."""
        return self._ordered(lambda done: self._loading.append((adapter_id, weights, done)))

    def unload(self, adapter_id: str) -> "Future[None]":
        """Takes no new rows for an adapter and drops it when its last one has left."""

        def leave(done: "Future[None]") -> None:
            self.ready.discard(adapter_id)
            self._leaving.setdefault(adapter_id, []).append(done)

        return self._ordered(leave)

    def close(self) -> None:
        """Ends the thread; unfinished rows are told."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _ordered(self, order: Callable[["Future[None]"], None]) -> "Future[None]":
        done: Future[None] = Future()
        done.set_running_or_notify_cancel()  # who waits may go away; the order stands
        with self._changed:
            if self.failure is not None:
                raise self.failure
            order(done)
            self._changed.notify()
        return done

    def _seconds_until_room(self) -> float:
        """Until a quarter of those who wait now have been answered, at the rate of the last answers."""
        if len(self._finished) < 2 or self._finished[-1] == self._finished[0]:
            return 1.0
        each = (self._finished[-1] - self._finished[0]) / (len(self._finished) - 1)
        return min(max(each * max(len(self._waiting), 4) / 4, 0.1), 60.0)

    def _run(self, build: Callable[[], RaggedModel], built: "Future[None]") -> None:
        try:
            self.model = build()
        except BaseException as cause:  # noqa: BLE001 - whoever waits for the model is told
            built.set_exception(cause)
            return
        self._read_tokens = READ_TOKENS[torch.device(self.model.device).type]
        built.set_result(None)
        error = EngineError(503, "the engine is closed")
        try:
            with torch.inference_mode():
                while self._work_is_there():
                    self._drop_cancelled()
                    self._take_orders()
                    self._admit()
                    if self._running:
                        self._step()
                        self._let_others_in()
        except BaseException as cause:
            error = EngineError(503, f"the engine has stopped: {type(cause).__name__}: {cause}")
            raise
        finally:
            self._fail_all(error)

    def _work_is_there(self) -> bool:
        """Waits while there is nothing to do. False: the engine closes."""
        with self._changed:
            while not (self._closing or self._running or self._waiting or self._loading or self._leaving):
                self._changed.wait()
            return not self._closing

    def _drop_cancelled(self) -> None:
        for row in [row for row in self._running if row.cancelled]:
            self._leave(row, wipe=True)
        with self._changed:
            if any(row.cancelled for row in self._waiting):
                self._waiting = deque(row for row in self._waiting if not row.cancelled)

    def _take_orders(self) -> None:
        with self._changed:
            used = {row.adapter for row in (*self._running, *self._waiting)}
            left = {a: self._leaving.pop(a) for a in [a for a in self._leaving if a not in used]}
            arriving = [order for order in self._loading if order[0] not in self._leaving]
            self._loading = deque(order for order in self._loading if order[0] in self._leaving)
        for adapter_id, futures in left.items():
            self.model.adapters.remove(adapter_id)
            self._prefixes.forget(adapter_id)
            for done in futures:
                done.set_result(None)
        for adapter_id, weights, done in arriving:
            if adapter_id not in self.ready:
                self.model.adapters.add(adapter_id, weights)
                self.ready.add(adapter_id)
            done.set_result(None)

    def _admit(self) -> None:
        while len(self._running) < self.max_rows:
            with self._changed:
                if not self._waiting:
                    return
                row = self._waiting[0]
                slot = self.model.cache.acquire(len(row.prompt) + row.sampling.max_tokens)
                if slot is None:
                    return
                self._waiting.popleft()
                self._running.append(row)
            row.slot = slot
            row.draw = Draw.of(row.sampling, self.model.device)
            if row.streams or row.sampling.stop:
                row.text = AnswerText(self.tokenizer, row.sampling.stop)

    def _step(self) -> None:
        budget = self._read_tokens
        rows: list[Row] = []
        work: list[Work] = []
        for row in self._running:
            if row.computed == 0:
                self._start(row)
            if row.unread > 0 and budget == 0:
                continue
            tokens = row.next_tokens(budget)
            if row.unread > 0:
                budget -= len(tokens)
            rows.append(row)
            work.append(Work(row.adapter, row.slot, row.computed, tokens, len(tokens) >= row.unread))
        started = time.monotonic()
        logits = self.model.forward(work)
        continued = [(row, row.draw) for row, item in zip(rows, work, strict=True) if item.wants_logits and row.draw]
        tokens_of = next_tokens(logits, [draw for _, draw in continued])
        for row, item in zip(rows, work, strict=True):
            read_last = 0 < row.unread == len(item.tokens)
            row.computed += len(item.tokens)
            if read_last:
                self._prefixes.learn(row.adapter, row.prompt, partial(self.model.cache.copy_of, row.slot))
        for (row, _), token in zip(continued, tokens_of, strict=True):
            self._advance(row, token)
        self._step_s = time.monotonic() - started

    def _let_others_in(self) -> None:
        """Waits a moment, after rows have left, for those that take their places.

        Whoever gets an answer often has the next question ready; come a thousandth of a second after the next step
        has begun, it would wait for that step's end.
        """
        with self._changed:
            left, self._left = self._left, 0
            if left and self._running and not self._waiting:
                self._changed.wait_for(lambda: self._closing or len(self._waiting) >= left, LINGER * self._step_s)

    def _start(self, row: Row) -> None:
        prefix = self._prefixes.find(row.adapter, row.prompt)
        if prefix is not None:
            self.model.cache.start_with(row.slot, prefix)
            row.computed = row.cached = prefix.shape[3]

    def _advance(self, row: Row, token: int | None) -> None:
        if row.cancelled:
            return
        if token is None:
            self._leave(row, wipe=True)
            row.tell(EngineError(502, f"the model's logits are no numbers (adapter {row.adapter})"))
            return
        row.answer.append(token)
        ended = token in self.model.end_tokens
        piece = row.text.add(token) if row.text is not None and not ended else ""
        stopped = ended or (row.text is not None and row.text.stopped)
        if not stopped and len(row.answer) < row.sampling.max_tokens:
            if piece:
                row.tell(Piece(piece))
            return
        self._leave(row)
        self._finished.append(time.monotonic())
        text = None if row.text is None else piece + row.text.end()
        row.tell(Ended(row.answer, text, "stop" if stopped else "length", row.cached))

    def _leave(self, row: Row, wipe: bool = False) -> None:
        """Gives a row's slot back, wiped where its keys and values are not known to be numbers."""
        self._left += 1
        self._running.remove(row)
        if wipe:
            self.model.cache.wipe(row.slot)
        self.model.cache.release(row.slot)

    def _fail_all(self, error: EngineError) -> None:
        with self._changed:
            self.failure = error
            self.ready.clear()
            rows = [row for row in (*self._running, *self._waiting) if not row.cancelled]
            futures = [*(done for _, _, done in self._loading), *(f for fs in self._leaving.values() for f in fs)]
            self._running.clear()
            self._waiting.clear()
        for row in rows:
            row.tell(error)
        for done in futures:
            done.set_exception(error)
