"""What the gateway writes down of a finished request: metrics of every one, the whole interaction of a sample.

The others are remembered for a while: one that somebody has a word about is worth keeping after all.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from concurrent.futures import Future
from datetime import UTC, datetime, timedelta
from typing import Any

from finetune_platform.serving.answering import Ask, Reply
from finetune_platform.serving.interaction_log import InteractionLog
from finetune_platform.serving.interactions import Interaction, Reason, Sampler
from finetune_platform.serving.metrics import Metrics
from finetune_platform.serving.plan import BASE

REMEMBERED = 5000
"""Answers that were not logged and may still be, when feedback on one comes to the gateway that gave it."""


class Noting:
    """Notes finished requests.

    Args:
        gateway: This process's name.
        log: Keeps interactions.
        metrics: Counts all.
        samplers: Which interactions of a task are kept.
    """

    def __init__(self, gateway: str, log: InteractionLog, metrics: Metrics, samplers: Mapping[str, Sampler]) -> None:
        self._gateway, self._log, self._metrics, self._samplers = gateway, log, metrics, samplers
        self._remembered: OrderedDict[str, tuple[Ask, Reply, Mapping[str, Any] | None]] = OrderedDict()
        self._remembering = threading.Lock()

    def __call__(self, ask: Ask, reply: Reply, answer: Mapping[str, Any] | None) -> "Future[None] | None":
        """Notes one request.

        Args:
            answer: The engine's whole answer; None where it was streamed or broke off.

        Returns:
            Ends when the interaction is safe; None where it is not kept.
        """
        self._count(ask, reply)
        sampler = self._samplers[ask.served.name]
        # A fallback's answer shows what the arm before it could not do.
        trouble = reply.error or (reply.errors[0][1] if reply.errors else None)
        reason = sampler.reason(reply.interaction_id, reply.choice.arm, trouble)
        if reason is None:
            self._remember(ask, reply, answer)
            return None
        row = self._row(ask, reply, answer, reason, trouble)
        return self._log.record(row, ask.served.task.serving.redact)

    def keep(self, interaction_id: str) -> "Future[None] | None":
        """Logs an interaction that somebody has a word about; None where it is logged already, or forgotten."""
        with self._remembering:
            found = self._remembered.pop(interaction_id, None)
        if found is None:
            return None
        ask, reply, answer = found
        return self._log.record(self._row(ask, reply, answer, "feedback", None), ask.served.task.serving.redact)

    def _remember(self, ask: Ask, reply: Reply, answer: Mapping[str, Any] | None) -> None:
        with self._remembering:
            self._remembered[reply.interaction_id] = (ask, reply, answer)
            if len(self._remembered) > REMEMBERED:
                self._remembered.popitem(last=False)

    def _count(self, ask: Ask, reply: Reply) -> None:
        task, arm, adapter = ask.served.name, reply.choice.arm, reply.choice.adapter or BASE
        outcome = "error" if reply.error is not None else "cached" if reply.cached else reply.finish_reason or "stop"
        seconds = reply.latency_ms / 1000
        # Of a kept answer no token was read or written.
        tokens = (0, 0) if reply.cached else (reply.prompt_tokens, reply.completion_tokens)
        self._metrics.count(task, arm, adapter, outcome, seconds, *tokens)
        if reply.cached is not None:
            self._metrics.cache.labels(task, "hit" if reply.cached else "miss").inc()
        for choice, _ in reply.errors:
            self._metrics.fallbacks.labels(task, choice.arm, choice.adapter or BASE).inc()

    def _row(
        self, ask: Ask, reply: Reply, answer: Mapping[str, Any] | None, reason: Reason, trouble: str | None
    ) -> Interaction:
        return Interaction(
            interaction_id=reply.interaction_id,
            timestamp=_answered_at(reply),
            task=ask.served.name,
            tenant=ask.tenant,
            session=ask.session,
            adapter_id=reply.choice.adapter or BASE,
            arm=reply.choice.arm,
            request=reply.request,
            response=answer if answer is not None else _streamed(reply) if ask.streamed else None,
            prompt_tokens=reply.prompt_tokens,
            completion_tokens=reply.completion_tokens,
            latency_ms=reply.latency_ms,
            error=trouble,
            format_valid=reply.format_valid,
            refused=reply.refused,
            streamed=ask.streamed,
            finish_reason=reply.finish_reason,
            key_id=ask.key_id,
            gateway=self._gateway,
            sampled_because=reason,
        )


def _streamed(reply: Reply) -> dict[str, Any]:
    message = {"role": "assistant", "content": reply.text}
    return {"choices": [{"index": 0, "message": message, "finish_reason": reply.finish_reason}]}


def _answered_at(reply: Reply) -> datetime:
    """When the answer was complete: a remembered one is written later."""
    ago_s = time.perf_counter() - reply.started - reply.latency_ms / 1000
    return datetime.now(UTC) - timedelta(seconds=max(0.0, ago_s))
