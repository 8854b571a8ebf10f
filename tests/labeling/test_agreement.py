"""Agreement against the package that people compare with, and against chance."""

import krippendorff
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_platform.labeling.agreement import alpha_of, confusions_of, kappas_of

ANSWERS = st.sampled_from(["a", "b", "c", "d"])
ITEMS = st.lists(st.dictionaries(st.sampled_from(["ann", "bob", "cy"]), ANSWERS, max_size=3), min_size=1, max_size=12)


@settings(max_examples=100, deadline=None)
@given(ITEMS)
def test_alpha_is_that_of_the_krippendorff_package(items: list[dict[str, str]]) -> None:
    told = alpha_of(items)
    paired = [answers for answers in items if len(answers) > 1]
    if len({answer for answers in paired for answer in answers.values()}) < 2:
        assert told.value is None
        return
    matrix = [[answers.get(name, "") for answers in items] for name in ("ann", "bob", "cy")]
    codes = [[np.nan if cell == "" else "abcd".index(cell) for cell in row] for row in matrix]
    assert told.value == pytest.approx(krippendorff.alpha(codes, level_of_measurement="nominal"), abs=1e-9)


def test_the_interval_covers_the_alpha_of_many_items() -> None:
    """Two people who each err in a tenth of rows of four kinds: the alpha of all rows lies in most intervals."""
    rng = np.random.default_rng(1)

    def answers_of(n: int) -> list[dict[str, str]]:
        truth = rng.integers(4, size=n)
        return [{name: str(t if rng.random() > 0.1 else rng.integers(4)) for name in ("ann", "bob")} for t in truth]

    whole = alpha_of(answers_of(5_000)).value
    assert whole is not None
    covered = 0
    for seed in range(60):
        told = alpha_of(answers_of(60), seed)
        assert told.lower is not None and told.upper is not None
        covered += told.lower <= whole <= told.upper
    assert covered >= 51


def test_nothing_is_told_where_nobody_answered_twice() -> None:
    told = alpha_of([{"ann": "a"}, {"bob": "b"}])
    assert (told.value, told.lower, told.items) == (None, None, 0)


def test_kappa_of_pairs_and_what_they_confuse() -> None:
    items = [{"ann": "a", "bob": "a"}] * 4 + [{"ann": "b", "bob": "b"}] * 4 + [{"ann": "a", "bob": "b"}] * 2
    (kappa,) = kappas_of(items)
    # Observed 0.8, by chance 0.6 * 0.4 + 0.4 * 0.6 = 0.48.
    assert kappa.value == pytest.approx((0.8 - 0.48) / (1 - 0.48))
    assert kappa.items == 10
    assert [(c.one, c.other, c.times) for c in confusions_of(items)] == [("a", "b", 2)]
