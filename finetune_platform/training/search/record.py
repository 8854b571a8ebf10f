"""What a search leaves in the lake: a file a trial while it goes on, its manifest and a picture when it is done.

A trial's file is written anew at every rung, whole: a search that was killed goes on after its finished trials, and the
time that it took counts.
"""

from typing import Any, Literal

from finetune_platform.identity import content_id
from finetune_platform.lake import Lake
from finetune_platform.manifests import Manifest, Record
from finetune_platform.task_search import Search
from finetune_platform.task_training import Stage
from finetune_platform.training import TRAINING_VERSION

SEARCH_VERSION = "1"
"""Part of every search's id: raise it when the same search would propose or stop other trials."""


class TrialRecord(Record):
    """One trial.

    Attributes:
        number: From 1.
        options: What was tried.
        state: `pruned` where it was behind at a rung, `out_of_time` where the budget ended it.
        measured: The validation loss at each rung that it reached; of a complete trial the last one is the final loss.
        steps: Of the whole trial; `steps_done` of them were taken.
        seconds: Of all processes that worked on it.
        unended: Processes in a row that began it and did not say how it ended: they were killed.
        reason: Why it failed.
    """

    number: int
    options: dict[str, int | float]
    state: Literal["running", "complete", "pruned", "failed", "out_of_time"] = "running"
    measured: list[float] = []
    steps: int = 0
    steps_done: int = 0
    seconds: float = 0.0
    unended: int = 0
    reason: str = ""
    mlflow_run_id: str | None = None

    @property
    def in_words(self) -> str:
        """`trial 4 (learning_rate=0.000312, r=16) is pruned after step 6 of 48: validation 0.9123`."""
        options = ", ".join(f"{name}={value:.3g}" for name, value in self.options.items())
        after = "" if self.state == "complete" else f" after step {self.steps_done} of {self.steps}"
        loss = f": validation {self.measured[-1]:.4f}" if self.measured else ""
        why = f": {self.reason}" if self.reason else ""
        return f"trial {self.number} ({options}) is {self.state.replace('_', ' ')}{after}{loss}{why}"


class SearchManifest(Manifest):
    """A search: `trials/*.json`, `trials.svg`. Parents: `curated_dataset`; `warm_start` or
    `training_run`, where it began at one.

    `options` are the stage's as they were written, `search` what was searched for. `best` is the number of the trial
    whose options were `chosen`, and `training_run` the run of the stage with them. `ended_by` says what ended the
    search: the number of trials, the minutes, or that every combination had been tried.
    """

    FOLDER = "searches"

    base_model: str
    base_model_revision: str
    system_prompt: str
    stage: int
    options: dict[str, Any]
    search: dict[str, Any]
    validation_units: int
    trials: list[TrialRecord]
    best: int
    chosen: dict[str, int | float]
    training_run: str
    ended_by: Literal["trials", "minutes", "combinations"]
    seconds: float
    mlflow_run_id: str | None = None

    def count(self, state: str) -> int:
        """How many trials ended so."""
        return sum(trial.state == state for trial in self.trials)


def search_id(
    dataset_id: str,
    base_model_revision: str,
    system_prompt: str,
    stage: Stage,
    search: Search,
    begins_at: str | None,
    replay_share: float,
) -> str:
    """The id of the search that these decide; the last two as of a training run."""
    return content_id(
        "se",
        {
            **({"begins_at": begins_at, "replay_share": replay_share} if begins_at else {}),
            "dataset": dataset_id,
            "base_model_revision": base_model_revision,
            "system_prompt": system_prompt,
            "stage": stage.model_dump(mode="json"),
            "search": search.model_dump(mode="json"),
            "version": f"{TRAINING_VERSION}/{SEARCH_VERSION}",
        },
    )


def read_trials(lake: Lake, path: str) -> list[TrialRecord]:
    """The trials of the search at `path`, in order."""
    files = [info.path for info in lake.list(f"{path}/trials")]
    trials = [TrialRecord.model_validate_json(lake.get(file)) for file in files]
    return sorted(trials, key=lambda trial: trial.number)


def keep_trial(lake: Lake, path: str, trial: TrialRecord) -> None:
    """Writes a trial down, over what was said of it before."""
    lake.put(f"{path}/trials/{trial.number:04d}.json", trial.model_dump_json(indent=2).encode())
