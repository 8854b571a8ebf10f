"""What fails twice at one place is told to a person instead of being tried for ever."""

import pytest

from finetune_platform.errors import PermanentError, Unreachable
from finetune_platform.training.attempts import Attempts, attempt
from finetune_platform.training.loop import Stopped

PATH = "ticket_topics/training_runs/tr-1"


def dies(lake, from_step, reached):
    """A process that begins at a step, comes that far, and is killed: nothing after its last mark is ever written."""
    trying = attempt(lake, PATH, from_step)
    reach = trying.__enter__()
    place = f"{PATH}/checkpoints/attempts.json"
    for step in range(from_step + 1, reached + 1):
        reach(step)
    kept = Attempts.model_validate_json(lake.get(place))
    with pytest.raises(GeneratorExit):
        trying.gen.throw(GeneratorExit)
    kept.attempts[-1].reached = reached
    lake.put(place, kept.model_dump_json().encode())


def fails(lake, from_step, reached, error):
    with attempt(lake, PATH, from_step) as reach:
        for step in range(from_step + 1, reached + 1):
            reach(step)
        raise error


def endings(lake):
    kept = Attempts.model_validate_json(lake.get(f"{PATH}/checkpoints/attempts.json"))
    return [(a.from_step, a.reached, a.ending) for a in kept.attempts]


def test_two_silent_deaths_without_progress_are_refused_once_and_then_tried_again(lake):
    dies(lake, 20, 33)
    dies(lake, 20, 33)
    with pytest.raises(PermanentError, match=r"killed twice after step 33 and got no further .*memory") as told:
        dies(lake, 20, 33)
    assert "the same command then goes on after step 20" in told.value.mend
    dies(lake, 20, 33)  # somebody did something about it, or thinks so
    with pytest.raises(PermanentError, match="killed twice"):
        dies(lake, 20, 33)
    assert endings(lake) == [(20, 33, "killed")] * 3


def test_deaths_that_come_further_each_time_are_only_bad_luck(local_lake):
    for reached in (3, 7, 8, 20):
        dies(local_lake, 0, reached)
    dies(local_lake, 20, 24)


def test_the_second_failure_of_a_kind_at_a_step_is_permanent(local_lake):
    away = Unreachable("s3://bucket/x: the server does not answer", "check that it runs")
    with pytest.raises(Unreachable):
        fails(local_lake, 0, 5, away)
    with pytest.raises(PermanentError, match=r"Unreachable after step 5 for the second time: s3://bucket/x") as told:
        fails(local_lake, 0, 5, away)
    assert told.value.mend == away.mend
    with pytest.raises(Unreachable):  # further on
        fails(local_lake, 5, 6, away)
    with pytest.raises(RuntimeError, match=r"^cuda$"):  # of another kind
        fails(local_lake, 5, 6, RuntimeError("cuda"))
    with pytest.raises(PermanentError, match="RuntimeError after step 6 for the second time: cuda"):
        fails(local_lake, 5, 6, RuntimeError("cuda"))


def test_a_stop_is_no_failure_and_hides_none(local_lake):
    for _ in range(3):
        with pytest.raises(Stopped):
            fails(local_lake, 4, 4, Stopped(4))
    with pytest.raises(RuntimeError):
        fails(local_lake, 4, 4, RuntimeError("a"))
    with pytest.raises(Stopped):
        fails(local_lake, 4, 4, Stopped(4))
    with pytest.raises(PermanentError):
        fails(local_lake, 4, 4, RuntimeError("a"))
    with pytest.raises(Stopped):
        fails(local_lake, 4, 9, Stopped(9))
    with pytest.raises(RuntimeError):  # there was progress in between
        fails(local_lake, 9, 9, RuntimeError("a"))


def test_what_is_permanent_already_keeps_its_own_words(local_lake):
    for _ in range(2):
        with pytest.raises(PermanentError, match=r"^too little memory"):
            fails(local_lake, 0, 0, PermanentError("too little memory", "buy some"))
