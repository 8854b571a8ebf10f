"""Puts each group into train, validation or test, once and for all.

The place of a group is a hash of the seed and its id, compared with the shares. New rows therefore never move old
ones: a test row of today is a test row of next year, and no adapter has ever trained on it. The price is that
shares hold only up to sampling error, a standard deviation of sqrt(p (1 - p) / groups) over all groups and
within each stratum, where ranking the groups of a stratum would meet them exactly and reshuffle at every new row.
"""

import hashlib
from typing import TYPE_CHECKING

from finetune_platform.rows import Split

if TYPE_CHECKING:
    from daft import DataFrame


def assign_splits(rows: "DataFrame", validation_share: float, test_share: float, seed: int) -> "DataFrame":
    """Rows with the column `split`, the same for all rows of a group.

    Args:
        rows: Rows with `group_id`.
        validation_share: Share of groups, in (0, 1).
        test_share: Share of groups, in (0, 1).
        seed: Another seed is another division.
    """
    import daft
    from daft import col, lit

    split = daft.func(split_of, return_dtype=daft.DataType.string(), use_process=False)
    return rows.with_column(
        "split", split(col("group_id"), lit(validation_share), lit(test_share), lit(seed))
    ).collect()


def split_of(group_id: str, validation_share: float, test_share: float, seed: int) -> Split:
    """The split of one group.

    Test takes the lowest part of the unit interval, so that another validation share moves no test row.
    """
    digest = hashlib.sha256(f"{seed}:{group_id}".encode()).digest()
    point = int.from_bytes(digest[:8]) / 2**64
    if point < test_share:
        return "test"
    return "validation" if point < test_share + validation_share else "train"
