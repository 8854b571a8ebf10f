"""The whole alarm on made-up traffic with known truth. Real text and whole years are `bench/evidence.py drift`."""

from datetime import UTC, datetime

import numpy as np
import pytest

from finetune_platform.drift.evidence import Evidence, categories_of
from finetune_platform.drift.null_bounds import Vectors
from finetune_platform.drift.reference import Reference, make_reference
from finetune_platform.drift.rows import TrafficRow

MOMENT = datetime(2026, 1, 1, tzinfo=UTC)
WORDS = ["card", "transfer", "login", "password", "rate", "refund", "account", "statement", "limit", "fee"]
KINDS = 30


class Traffic:
    """Questions of thirty kinds, answered with one of ten words; foreign ones lie elsewhere."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.centres = self.rng.normal(size=(KINDS, 32))
        self.strange = self.rng.normal(size=(3, 32))
        self.mix = self.rng.dirichlet(np.full(KINDS, 4.0))

    def rows(
        self, n: int, foreign: float = 0.0, failed: float = 0.01, slower: float = 1.0
    ) -> tuple[list[TrafficRow], Vectors]:
        kinds = self.rng.choice(KINDS, n, p=self.mix)
        centres = self.centres[kinds]
        strange = self.rng.random(n) < foreign
        centres[strange] = self.strange[self.rng.integers(0, 3, strange.sum())]
        vectors = centres + 0.5 * self.rng.normal(size=(n, 32))
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        rows = [
            TrafficRow(
                interaction_id="",
                timestamp=MOMENT,
                question=" ".join(self.rng.choice(WORDS, 3 + kind % 7)),
                answer=WORDS[kind % 10],
                format_valid=bool(self.rng.random() < 0.98),
                failed=bool(self.rng.random() < failed),
                latency_ms=float(slower * self.rng.lognormal(6.0, 0.4)),
            )
            for kind in kinds
        ]
        return rows, vectors.astype(np.float32)

    def reference(self, n: int = 3000) -> Reference:
        return make_reference(*self.rows(n))


def first_alarm(traffic: Traffic, reference: Reference, n: int, ticks: int, **change: float) -> int | None:
    evidence = Evidence.none(reference)
    for number in range(1, ticks + 1):
        rows, vectors = traffic.rows(n, **change)
        evidence = evidence.seen(reference, categories_of(reference, rows, vectors))
        if evidence.is_alarm:
            return number
    return None


def test_all_channels_are_watched() -> None:
    names = Traffic(0).reference(600).names
    assert len(names) == len(set(names)) == 12
    assert Evidence.none(Traffic(0).reference(600)).e_value == 1.0


@pytest.mark.parametrize(
    ("change", "most"),
    [({"foreign": 0.1}, 1), ({"foreign": 0.02}, 8), ({"failed": 0.1}, 3), ({"slower": 2.0}, 2)],
    ids=["questions", "few questions", "errors", "latency"],
)
def test_a_change_is_found_soon(change: dict[str, float], most: int) -> None:
    delays = [first_alarm(t := Traffic(seed), t.reference(), 200, 20, **change) or 21 for seed in range(5)]
    assert np.median(delays) <= most


@pytest.mark.parametrize("n", [50, 200])
def test_traffic_like_the_reference_is_quiet(n: int) -> None:
    alarms = [first_alarm(t := Traffic(seed), t.reference(), n, 120) for seed in range(4)]
    assert alarms == [None] * 4


def test_the_same_rows_make_the_same_reference() -> None:
    rows, vectors = Traffic(1).rows(500)
    one, again = make_reference(rows, vectors), make_reference(rows, vectors.copy())
    tick = Traffic(2).rows(100)
    assert all(
        np.array_equal(a, b)
        for a, b in zip(categories_of(one, *tick).values(), categories_of(again, *tick).values(), strict=True)
    )


def test_a_reference_of_questions_alone_needs_no_answers() -> None:
    traffic = Traffic(3)
    reference = make_reference(*traffic.rows(1000), answered=False)
    assert reference.names == [
        "mix of questions", "novelty of questions", "length of questions", "unknown words", "script", "language",
    ]  # fmt: skip
    assert first_alarm(traffic, reference, 200, 3, foreign=0.3) == 1
