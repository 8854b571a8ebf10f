"""What changed, on an alarm: the rows since the evidence began to grow, beside the reference's.

It only describes: the alarm has been given by `evidence.py`, and nothing here takes it back.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from finetune_platform.drift.categories import category_name, short
from finetune_platform.drift.cause import TenantShare, suspected_cause
from finetune_platform.drift.clusters import clusters_of
from finetune_platform.drift.kept_reference import KeptReference
from finetune_platform.drift.languages import language
from finetune_platform.drift.null_bounds import Ints, Vectors
from finetune_platform.drift.report import (
    Changes,
    Example,
    Moved,
    Novel,
    NovelCluster,
    Share,
    Shares,
    Suspicion,
    Test,
    Words,
)
from finetune_platform.drift.rows import TrafficRow
from finetune_platform.drift.tables import DriftTick
from finetune_platform.drift.two_sample import mmd_fuse
from finetune_platform.drift.words import Distinguishing, distinguishing

NOVEL = 0.98
"""Quantile of the reference beyond which a row is shown as novel."""

GREW = 2.0
"""Evidence below which a channel says nothing yet."""

CLUSTER_WORDS, MOST_VALUES, EXAMPLE_LETTERS = 6, 8, 300


class Since(NamedTuple):
    """Rows since the evidence began to grow.

    Attributes:
        logged: How many there were.
        rows: Those that are compared, repeats once.
        vectors: Of their questions, `(rows, dimension)`.
    """

    since: str
    until: str
    logged: int
    rows: Sequence[TrafficRow]
    vectors: Vectors


def growth_began(ticks: Sequence[DriftTick]) -> DriftTick:
    """The look with which the evidence of the channel that rang began to grow; where none rang, of the loudest now.

    Args:
        ticks: All with a reference, in their order, at least one.
    """
    rang = next((number for number, tick in enumerate(ticks) if tick.alarm), len(ticks) - 1)
    loudest = max(ticks[rang].channels, key=lambda name: ticks[rang].channels[name])
    first = rang
    while first and ticks[first - 1].channels.get(loudest, 1.0) >= GREW:
        first -= 1
    return ticks[first]


def explain(kept: KeptReference, evidence: Mapping[str, float], since: Since) -> Changes:
    """Compares the rows since with the reference's.

    Args:
        kept: The reference.
        evidence: E-value of each channel, by name.
        since: At least one row.
    """
    novel = np.flatnonzero(kept.channels.novelty_of(since.vectors) > kept.channels.novelty_at(NOVEL))
    cause = suspected_cause(evidence, _tenant(since.rows, novel))
    more, fewer = distinguishing([row.question for row in kept.rows], [row.question for row in since.rows])
    return Changes(
        since=since.since,
        until=since.until,
        logged=since.logged,
        compared=len(since.rows),
        cause=Suspicion(**cause._asdict()) if cause else None,
        test=_test(kept.vectors, since.vectors),
        moved=_moved(kept, since),
        more=_words(more),
        fewer=_words(fewer),
        novel=Novel(rows=len(novel), share_before=round(1 - NOVEL, 4), clusters=_clusters(kept, since, novel)),
        shares=_shares(kept.rows, since.rows),
    )


def _test(before: Vectors, now: Vectors) -> Test | None:
    if len(before) < 2 or len(now) < 2:
        return None
    found = mmd_fuse(before, now)
    return Test(statistic=found.statistic, p_value=found.p_value, rows_before=found.rows[0], rows_now=found.rows[1])


def _moved(kept: KeptReference, since: Since) -> list[Moved]:
    """How far each channel's rows are from the reference's."""
    found = []
    for channel, null in kept.channels.channels:
        counts = np.bincount(channel.of_rows(since.rows, since.vectors), minlength=channel.categories)
        grown = counts / counts.sum() - null.expected
        most = int(grown.argmax())
        found.append(
            Moved(
                channel=channel.name,
                distance=float(np.clip(grown, 0.0, None).sum()),
                category=category_name(channel, most, kept.rows, kept.vectors),
                before=float(null.expected[most]),
                now=float(counts[most] / counts.sum()),
            )
        )
    return found


def _clusters(kept: KeptReference, since: Since, novel: Ints) -> list[NovelCluster]:
    known = [row.question for row in kept.rows]
    rows = [since.rows[number] for number in novel]
    found = []
    for cluster in clusters_of(since.vectors[novel], [row.question for row in rows]):
        more, _ = distinguishing(known, [rows[number].question for number in cluster.rows])
        found.append(
            NovelCluster(
                rows=len(cluster.rows),
                share=len(cluster.rows) / len(since.rows),
                words=_words(more[:CLUSTER_WORDS]),
                examples=[
                    Example(
                        interaction_id=rows[number].interaction_id, text=short(rows[number].question, EXAMPLE_LETTERS)
                    )
                    for number in cluster.examples
                ],
            )
        )
    return found


def _shares(before: Sequence[TrafficRow], now: Sequence[TrafficRow]) -> list[Shares]:
    lengths = [float(len(row.question)) for row in before]
    edges = np.unique(np.quantile(lengths, (0.1, 0.25, 0.5, 0.75, 0.9)).round())

    def length(row: TrafficRow) -> str:
        place = int(np.searchsorted(edges, len(row.question), side="left"))
        if place == len(edges):
            return f"more than {edges[-1]:,.0f} letters"
        return (
            f"{edges[place - 1] + 1:,.0f} to {edges[place]:,.0f} letters" if place else f"up to {edges[0]:,.0f} letters"
        )

    kinds: list[tuple[str, Callable[[TrafficRow], str]]] = [
        ("Languages", lambda row: language(row.question)),
        ("Lengths", length),
        ("Tenants", lambda row: row.tenant or "none"),
    ]
    return [_share(title, kind, before, now) for title, kind in kinds]


def _share(
    title: str, kind: Callable[[TrafficRow], str], before: Sequence[TrafficRow], now: Sequence[TrafficRow]
) -> Shares:
    first, second = Counter(map(kind, before)), Counter(map(kind, now))
    names = sorted(first | second, key=lambda name: (-abs(second[name] / len(now) - first[name] / len(before)), name))
    values = [Share(name=name, before=first[name], now=second[name]) for name in names[:MOST_VALUES]]
    return Shares(title=title, before=len(before), now=len(now), values=values)


def _tenant(rows: Sequence[TrafficRow], novel: Ints) -> TenantShare | None:
    inside = set(novel.tolist())
    of_novel = Counter(rows[number].tenant for number in inside)
    of_others = Counter(row.tenant for number, row in enumerate(rows) if number not in inside)
    if len(of_novel | of_others) < 2 or not of_novel:
        return None
    name, count = min(of_novel.items(), key=lambda item: (-item[1], item[0]))
    return TenantShare(name, count / len(inside), of_others[name] / max(of_others.total(), 1))


def _words(found: Sequence[Distinguishing]) -> list[Words]:
    return [Words(**gram._asdict()) for gram in found]
