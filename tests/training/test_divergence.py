"""A run that has lost what it learned is stopped soon, and one that is only noisy never."""

import numpy as np
import pytest

from finetune_platform.errors import PermanentError
from finetune_platform.training.divergence import WINDOW, LossWatch, recent_loss

STEPS = np.arange(1500)
LEARNING = 0.1 + 2.9 * np.exp(-STEPS / 40)


def diverged_at(curve):
    """The step at which the watch gives a run up; None where it does not."""
    watch = LossWatch()
    for step, loss in enumerate(curve, 1):
        try:
            watch.see(float(loss))
        except PermanentError:
            return step
    return None


def spiky(rng):
    curve = LEARNING * rng.lognormal(0, 0.4, len(STEPS))
    for start in rng.choice(range(50, len(STEPS), 100), 5, replace=False):
        curve[start : start + 10] += 10
    return curve


HEALTHY = {
    "flat": lambda rng: 2.5 * rng.lognormal(0, 0.5, len(STEPS)),
    "one step of ten from a hard kind": lambda rng: (
        np.where(rng.random(len(STEPS)) < 0.1, 4.0, LEARNING) * rng.lognormal(0, 0.3, len(STEPS))
    ),
    "preferences": lambda rng: np.log1p(np.exp(-0.001 * STEPS - rng.normal(0.5, 2, len(STEPS)))),
    "noisy": lambda rng: LEARNING * rng.lognormal(0, 0.6, len(STEPS)),
    "heavy tails": lambda rng: LEARNING * rng.lognormal(0, 1.2, len(STEPS)),
    "slow and high": lambda rng: (3 + 2 * np.exp(-STEPS / 600)) * rng.lognormal(0, 0.5, len(STEPS)),
    "batches of an easy and a hard kind": lambda rng: (
        np.where(rng.random(len(STEPS)) < 0.5, 0.1, 2.0) * rng.lognormal(0, 0.3, len(STEPS))
    ),
    "spikes of ten steps": spiky,
    "a bump in the warmup": lambda rng: (
        (LEARNING + 1.5 * np.exp(-(((STEPS - 15) / 8) ** 2))) * rng.lognormal(0, 0.4, len(STEPS))
    ),
}


@pytest.mark.parametrize("kind", HEALTHY)
def test_healthy_curves_raise_no_alarm(kind):
    rng = np.random.default_rng(0)
    assert [diverged_at(HEALTHY[kind](rng)) for _ in range(10)] == [None] * 10


@pytest.mark.slow
@pytest.mark.parametrize("kind", HEALTHY)
def test_hundreds_of_healthy_curves_raise_no_alarm(kind):
    rng = np.random.default_rng(1)
    assert [diverged_at(HEALTHY[kind](rng)) for _ in range(300)] == [None] * 300


@pytest.mark.parametrize(
    "lost",
    [
        pytest.param(lambda steps: np.where(steps < 100, LEARNING[:300], 9.0), id="at once, far up"),
        pytest.param(lambda steps: np.where(steps < 100, LEARNING[:300], 2.5), id="at once, to where it began"),
        pytest.param(lambda steps: LEARNING[:300] + np.clip((steps - 100) / 60, 0, 1) * 4, id="slowly"),
        pytest.param(lambda steps: 3 + 7 * np.minimum(steps / 20, 1), id="from the start"),
    ],
)
def test_a_lost_run_is_given_up_within_a_hundred_steps(lost):
    rng = np.random.default_rng(0)
    found = [diverged_at(lost(STEPS[:300]) * rng.lognormal(0, 0.3, 300)) for _ in range(20)]
    assert all(at is not None and at <= 200 for at in found), found


def test_the_error_tells_both_losses_and_the_mend():
    watch = LossWatch()
    with pytest.raises(
        PermanentError, match=r"step 63: the run has diverged: the mean loss of .* is 4\.81 and had been 0\.50"
    ) as told:
        for loss in [0.5] * WINDOW + [8.0] * WINDOW:
            watch.see(loss)
    assert "learning_rate" in told.value.mend


def test_a_state_is_judged_by_the_steps_just_before_it():
    assert recent_loss([9.0] * 50 + [1.0] * WINDOW) == 1.0
    assert recent_loss([3.0, 1.0]) == 2.0
