"""What a search tries next and what it ends early: Optuna's answers, made of the record alone."""

import math

import pytest

from finetune_platform.task_search import Search
from finetune_platform.task_training import Lora, Stage
from finetune_platform.training.search.options import most_demanding, with_options, written
from finetune_platform.training.search.proposals import behind, propose
from finetune_platform.training.search.record import TrialRecord
from finetune_platform.training.search.trial import rungs_of

SEARCH = Search(minutes=1, learning_rate=[1e-5, 1e-1], r=[2, 4, 8])
CHOICES = Search(minutes=1, r=[2, 4, 8], lora_dropout=[0.0, 0.1])


def trial(number: int, measured: list[float], state: str = "complete", **options: float) -> TrialRecord:
    return TrialRecord.model_validate({"number": number, "options": options, "measured": measured, "state": state})


def history(search: Search, count: int) -> list[TrialRecord]:
    """Trials that a search would make if the loss were the distance of the rate from 0.003, in powers of ten."""
    trials: list[TrialRecord] = []
    for number in range(1, count + 1):
        first = {"learning_rate": 0.02, **({"r": 4} if search.r else {})}
        options = propose(search, trials, first)
        loss = abs(math.log10(options["learning_rate"]) - math.log10(0.003))
        trials.append(trial(number, [loss + 1, loss + 0.5, loss], **options))
    return trials


def test_the_same_record_gives_the_same_proposal_and_the_first_is_what_is_written() -> None:
    trials = history(SEARCH, 12)
    assert trials[0].options == {"learning_rate": 0.02, "r": 4}
    for count in range(1, 12):
        kept = [TrialRecord.model_validate_json(t.model_dump_json()) for t in trials[:count]]  # as a resumed one reads
        assert propose(SEARCH, kept, None) == trials[count].options
    other = Search(**{**SEARCH.model_dump(), "seed": 1})
    assert propose(other, trials[:3], None) != trials[3].options
    for tried in trials:
        assert 1e-5 <= tried.options["learning_rate"] <= 1e-1 and tried.options["r"] in (2, 4, 8)
        assert isinstance(tried.options["r"], int)


def test_it_learns_from_its_trials() -> None:
    early, late = [], []
    for seed in range(5):
        losses = [t.measured[-1] for t in history(Search(minutes=1, learning_rate=[1e-5, 1e-1], seed=seed), 30)]
        early += losses[1:6]
        late += losses[-10:]
    assert sum(late) / len(late) < 0.7 * sum(early) / len(early)


def test_no_combination_is_tried_twice_and_when_all_were_nothing_is_left() -> None:
    trials: list[TrialRecord] = []
    while (options := propose(CHOICES, trials, None)) is not None:
        trials.append(trial(len(trials) + 1, [1.0, 1.0, 1.0], **options))
    assert sorted((t.options["r"], t.options["lora_dropout"]) for t in trials) == [
        (r, dropout) for r in (2, 4, 8) for dropout in (0.0, 0.1)
    ]


def test_a_trial_goes_on_among_the_best_third_of_those_that_reached_its_rung() -> None:
    others = [trial(n, [1.0 + n / 10, 0.8 + n / 10, 0.5], learning_rate=0.01 / n, r=4) for n in range(1, 6)]

    def ends(*measured: float) -> bool:
        return behind(SEARCH, others, trial(6, list(measured), "running", learning_rate=0.05, r=4))

    assert not ends(1.15), "the second best of six"
    assert ends(1.25), "the third"
    assert not ends(1.15, 0.95) and ends(1.15, 1.15)
    assert not behind(SEARCH, [], trial(1, [9.0], "running", learning_rate=0.05, r=4)), "the first has no rival"
    # Who was ended or failed there counts among those who came so far.
    ended = [trial(n, [1.0], "pruned", learning_rate=0.01 / n, r=4) for n in range(1, 4)]
    assert behind(SEARCH, ended, trial(4, [1.1], "running", learning_rate=0.05, r=4))


def test_options_become_a_stage_and_the_ratio_of_alpha_to_r_stays() -> None:
    stage = Stage(peft=Lora(r=16, lora_alpha=32))
    chosen = with_options(stage, {"learning_rate": 1e-3, "r": 8, "lora_dropout": 0.1, "num_train_epochs": 1.0})
    assert (chosen.peft.r, chosen.peft.lora_alpha, chosen.peft.lora_dropout) == (8, 16, 0.1)
    assert (chosen.learning_rate, chosen.num_train_epochs) == (1e-3, 1.0)
    assert with_options(stage, {"r": 8, "lora_alpha": 64.0}).peft.lora_alpha == 64
    assert with_options(stage, {"r": 16}) == stage
    assert with_options(stage, {"r": 16}).model_dump_json() == stage.model_dump_json(), "and has its id"


def test_what_is_written_counts_only_where_it_may_be_chosen() -> None:
    assert written(SEARCH, Stage(learning_rate=2e-4, peft=Lora(r=8))) == {"learning_rate": 2e-4, "r": 8}
    assert written(SEARCH, Stage(learning_rate=2e-4, peft=Lora(r=16))) is None
    assert written(SEARCH, Stage(learning_rate=0.5, peft=Lora(r=8))) is None
    hard = most_demanding(Search(minutes=1, r=[64, 8], num_train_epochs=[1, 5, 3]), Stage())
    assert (hard.peft.r, hard.peft.lora_alpha, hard.num_train_epochs) == (64, 128, 5)


@pytest.mark.parametrize(("steps", "rungs"), [(24, [3, 8, 24]), (900, [100, 300, 900]), (2, [1, 1, 2]), (1, [1, 1, 1])])
def test_rungs_lie_at_a_ninth_a_third_and_the_end(steps: int, rungs: list[int]) -> None:
    assert rungs_of(steps) == rungs
