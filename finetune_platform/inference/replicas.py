"""The servers behind one engine, and which of them answers next: the one with the fewest requests under way.

Talking to them belongs in `exchange.py`, trying again in `dispatch.py`.
"""

import itertools
from collections import Counter
from collections.abc import Collection, Sequence
from urllib.parse import urlsplit

from finetune_platform.inference.breaker import Breaker
from finetune_platform.inference.chat import EngineError


class Replica:
    """One server.

    Attributes:
        base: Its address as OpenAI's clients take it, without a slash at the end: `https://host/v1`.
        name: Host and port, for logs: an address may hold a password.
        in_flight: Requests under way, by model name.
        total: Requests under way.
    """

    def __init__(self, url: str, breaker: Breaker) -> None:
        parts = urlsplit(url.rstrip("/"))
        self.base = parts._replace(path=parts.path or "/v1", query="", fragment="").geturl()
        self.name = parts.netloc.rpartition("@")[2]
        self.breaker = breaker
        self.in_flight: Counter[str] = Counter()
        self.total = 0

    def begin(self, model: str) -> int | None:
        """Counts a request, if the breaker lets it through; the permit goes back through `end`."""
        permit = self.breaker.acquire()
        if permit is not None:
            self.total += 1
            self.in_flight[model] += 1
        return permit

    def end(self, model: str, permit: int, ok: bool | None) -> None:
        """The request is over: `ok` says whether the server did its part, None that nobody knows."""
        self.total -= 1
        self.in_flight[model] -= 1
        if not self.in_flight[model]:
            del self.in_flight[model]
        if ok is None:
            self.breaker.released(permit)
        elif ok:
            self.breaker.succeeded(permit)
        else:
            self.breaker.failed(permit)


_turn = itertools.count()


def begin_on_least_busy(replicas: Sequence[Replica], tried: Collection[Replica], model: str) -> tuple[Replica, int]:
    """Takes a place on the replica with the fewest requests; one that was tried already comes last.

    Returns:
        The replica and the permit to give back.

    Raises:
        EngineError: No breaker lets a request through (503).
    """
    if len(replicas) == 1:
        ordered = list(replicas)
    else:
        # Equals take turns: without it an idle engine would send everything to the first.
        shift = next(_turn) % max(len(replicas), 1)
        ordered = [*replicas[shift:], *replicas[:shift]]
        ordered.sort(key=lambda r: (r in tried, r.total))
    for replica in ordered:
        if (permit := replica.begin(model)) is not None:
            return replica, permit
    pause = min((r.breaker.retry_after_s() for r in replicas), default=0.0)
    names = ", ".join(r.name for r in replicas)
    raise EngineError(503, f"left alone for a while after failures: {names}", retry_after_s=max(pause, 0.1))
