"""Splits: shares near their targets, groups whole, and old rows where they were."""

import math
from collections import Counter

import daft
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_platform.curation.split import assign_splits, split_of

shares = st.floats(min_value=0.05, max_value=0.4)


@settings(max_examples=50, deadline=None)
@given(shares, shares, st.integers(0, 1000))
def test_shares_are_near_their_targets(validation: float, test: float, seed: int) -> None:
    groups = 2_000
    counts = Counter(split_of(f"gr-{n}", validation, test, seed) for n in range(groups))
    for split, share in (("validation", validation), ("test", test), ("train", 1 - validation - test)):
        # Five standard deviations: by chance one example in a million fails.
        assert abs(counts[split] / groups - share) < 5 * math.sqrt(share * (1 - share) / groups)


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.text(max_size=5), min_size=1, max_size=20), st.lists(st.text(max_size=5), max_size=20), st.integers()
)
def test_no_group_is_cut_and_new_rows_move_no_old_ones(old: list[str], new: list[str], seed: int) -> None:
    seed %= 1_000

    def splits(groups: list[str]) -> list[str]:
        return list(assign_splits(daft.from_pydict({"group_id": groups}), 0.3, 0.3, seed).to_pydict()["split"])

    after = splits(old + new)
    assert after[: len(old)] == splits(old)
    assert len(set(zip(old + new, after, strict=True))) == len(set(old + new))


def test_another_validation_share_moves_no_test_row() -> None:
    groups = [f"gr-{n}" for n in range(500)]
    tests = [{g for g in groups if split_of(g, share, 0.2, 0) == "test"} for share in (0.05, 0.3)]
    assert tests[0] == tests[1]


@pytest.mark.parametrize(("group", "split"), [("gr-a", "train"), ("gr-b", "test"), ("gr-11", "validation")])
def test_places_are_for_ever(group: str, split: str) -> None:
    """A change here would leak yesterday's test rows into tomorrow's training."""
    assert split_of(group, 0.1, 0.2, 0) == split
