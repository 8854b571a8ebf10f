"""Which rows a warm start trains on: those its adapter has not seen, and some of those it has, against forgetting.

Where the weights begin belongs in `beginning.py`.
"""

import random
from collections.abc import Sequence
from typing import NamedTuple

from finetune_platform.errors import BadInput
from finetune_platform.lake import Lake
from finetune_platform.manifests import AdapterManifest, DatasetManifest
from finetune_platform.rows import SLICE_FIELDS, Example
from finetune_platform.training.rows import read_split

MEND = "train from scratch: leave retraining.warm_start out"


class Earlier(NamedTuple):
    """What an adapter has been trained on, and how much of it comes again."""

    example_ids: frozenset[str]
    replay_share: float


class Mix(NamedTuple):
    """Rows to train on; `replayed` of them were trained on before."""

    rows: list[Example]
    replayed: int


def earlier_rows(adapter: AdapterManifest, replay_share: float, lake: Lake) -> Earlier:
    """The training rows of the adapter's dataset.

    Args:
        adapter: A registered one.
        replay_share: As in the task file.
        lake: Holds that dataset.

    Raises:
        BadInput: It does not.
    """
    dataset = adapter.parents["curated_dataset"]
    try:
        rows = read_split(lake, lake.manifest(DatasetManifest, DatasetManifest.path_of(adapter.task, dataset)), "train")
    except FileNotFoundError as error:
        raise BadInput(f"{adapter.artifact_id}: its dataset {dataset} is not in the lake", MEND) from error
    return Earlier(frozenset(row.example_id for row in rows), replay_share)


def mix(train: Sequence[Example], earlier: Earlier, seed: int) -> Mix:
    """All new rows and a sample of the others, in the order of `train`; all rows, where none is new.

    The sample holds each slice in its share: every k-th row of the slices one after the other, from a random start
    (systematic sampling of a list sorted by strata; Cochran, Sampling Techniques, 1977, chapter 8).

    Args:
        train: Rows of the new dataset.
        earlier: What the adapter has seen. Its `replay_share` of the returned rows are such rows, if there are so many.
        seed: Of the sample.
    """
    old = [i for i, row in enumerate(train) if row.example_id in earlier.example_ids]
    new = len(train) - len(old)
    if not new:
        return Mix(list(train), len(old))
    wanted = round(new * earlier.replay_share / (1 - earlier.replay_share))
    kept = set(_spread(train, old, min(wanted, len(old)), random.Random(f"{seed}/replay")))
    left_out = set(old) - kept
    return Mix([row for i, row in enumerate(train) if i not in left_out], len(kept))


def _spread(train: Sequence[Example], rows: list[int], count: int, chance: random.Random) -> list[int]:
    shuffled = chance.sample(rows, len(rows))
    shuffled.sort(key=lambda i: [getattr(train[i], field) for field in SLICE_FIELDS])
    start = chance.random()
    return [shuffled[int((k + start) * len(rows) / count)] for k in range(count)]
