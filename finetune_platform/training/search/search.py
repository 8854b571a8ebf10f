"""A search from its first trial to its manifest, or the rest of one that was killed.

Proposing belongs in `proposals.py`, training one trial in `trial.py`, what a trial is followed by and written down with
in `attempt.py`. The first process decides, the others are told.
"""

import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal, NamedTuple

from finetune_platform.errors import BadInput, PermanentError
from finetune_platform.inference.base_models import ResolvedModel
from finetune_platform.inference.precision import choose_precision
from finetune_platform.lake import Lake
from finetune_platform.manifests import MANIFEST_NAME, DatasetManifest
from finetune_platform.manifests_training import SearchRecord
from finetune_platform.storage_errors import disk_failures
from finetune_platform.task import Task
from finetune_platform.task_search import Search
from finetune_platform.task_training import Stage
from finetune_platform.training import TRAINING_VERSION
from finetune_platform.training.beginning import FRESH, Beginning, begin_at
from finetune_platform.training.model import training_device
from finetune_platform.training.prepare import prepare
from finetune_platform.training.processes import ALONE, Processes
from finetune_platform.training.run import tracked_run, training_run_id
from finetune_platform.training.search.attempt import Followed, attempt_trial
from finetune_platform.training.search.options import most_demanding, with_options, written
from finetune_platform.training.search.picture import trials_picture
from finetune_platform.training.search.proposals import propose
from finetune_platform.training.search.record import SearchManifest, TrialRecord, keep_trial, read_trials, search_id
from finetune_platform.training.search.trial import Ground
from finetune_platform.training.surroundings import Surroundings
from finetune_platform.training.tracking import tracked

PLACE = "training.search"
FEWEST, FEW = 10, 100
"""Validation units without which options are not compared, and with which a difference may still be chance."""

KILLS = 2
"""Processes in a row that die over one trial before it counts as failed."""

EndedBy = Literal["trials", "minutes", "combinations"]


class Limits(NamedTuple):
    """What ends a search."""

    search: Search
    first: dict[str, float] | None

    def next_trial(self, trials: Sequence[TrialRecord]) -> TrialRecord | EndedBy:
        """The trial to make now, or what ended the search.

        Args:
            trials: All so far; the last one may have been begun by a process that is gone.
        """
        if trials and trials[-1].state == "running":
            return trials[-1]
        if sum(trial.seconds for trial in trials) >= self.search.minutes * 60:
            return "minutes"
        if len(trials) == self.search.trials:
            return "trials"
        options = propose(self.search, trials, self.first)
        return "combinations" if options is None else TrialRecord(number=len(trials) + 1, options=options)


def run_search(
    task: Task,
    stage: Stage,
    dataset: DatasetManifest,
    base: ResolvedModel,
    lake: Lake,
    surroundings: Surroundings,
    *,
    begins: Beginning = FRESH,
    processes: Processes = ALONE,
) -> SearchManifest:
    """Searches for options of a stage, and publishes what was tried.

    Args:
        task: With `training.search`.
        stage: As it is written.
        dataset: Trials are trained on its training split and measured on its validation split.
        base: The model.
        lake: Holds dataset, trials and result.
        surroundings: Where it runs and who is told.
        begins: At which weights the stage begins.
        processes: That train together and all make this call.

    Returns:
        The search's manifest: a new one, or that of the finished search with this id.

    Raises:
        Stopped: `surroundings.stop` said so; the same call goes on with the trial under way.
        BadInput: There are too few validation rows.
        PermanentError: No trial was trained to its end.
    """
    search, report = task.training.search, surroundings.report
    assert search is not None
    share = begins.earlier.replay_share if begins.earlier else 0.0
    name = search_id(dataset.artifact_id, base.revision, task.system_prompt, stage, search, begins.artifact_id, share)
    path = SearchManifest.path_of(task.name, name)
    if lake.is_published(path):
        found = lake.manifest(SearchManifest, path)
        report(f"search: {name} is finished already: {noted(found).in_words}")
        return found
    report(
        f"search: {name}: at most {search.trials} trials in {search.minutes:g} minutes, of {', '.join(search.values)} "
        f"for stage {search.stage} ({stage.method})"
    )
    work = surroundings.work_dir / (name if processes.leads else f"{name}-{processes.rank}")
    shutil.rmtree(work, ignore_errors=True)  # What a killed process of this search left.
    told = tracked_run(task, dataset, base, stage, name, surroundings.tags)
    with tracked(surroundings.tracking_uri, lake, told, report) if processes.leads else nullcontext() as opening:
        # What a measurement decides, the first decides for all.
        dtype = processes.gather(choose_precision(stage.dtype, training_device()).dtype)[0]
        agreed = stage if processes.size == 1 else stage.model_copy(update={"dtype": dtype})
        ground = _prove(task, search, agreed, dataset, base, lake, work, surroundings, begins, processes)
        parent = opening.result() if opening else None
        followed = Followed(task, dataset, base, agreed, name, lake, path, parent, surroundings, processes)
        trials, ended_by = _all_trials(Limits(search, written(search, stage)), ground, followed)
        best = _best(search, trials)
        if parent:
            chosen = with_options(stage, best.options)
            manifest = SearchManifest(
                artifact_id=name,
                task=task.name,
                parents=_parents(dataset, begins),
                code_version=TRAINING_VERSION,
                base_model=base.name,
                base_model_revision=base.revision,
                system_prompt=task.system_prompt,
                stage=search.stage,
                options=stage.model_dump(mode="json"),
                search=search.model_dump(mode="json", exclude_none=True),
                validation_units=len(ground.data.held_out.shapes) if ground.data.held_out else 0,
                trials=trials,
                best=best.number,
                chosen=best.options,
                training_run=training_run_id(
                    dataset.artifact_id, base.revision, task.system_prompt, chosen, begins.artifact_id, share
                ),
                ended_by=ended_by,
                seconds=round(sum(trial.seconds for trial in trials), 1),
                mlflow_run_id=parent.run_id,
            )
            picture = trials_picture(manifest)
            parent.add_file("trials.svg", picture)
            parent.log_figures({"validation_loss": best.measured[-1]}, best.number)
            parent.tag({"best_trial": str(best.number), "chosen_training_run": manifest.training_run})
            _publish(lake, manifest, picture, work)
            report(f"search: {noted(manifest).in_words}: {_summary(manifest)}")
        processes.wait()
    shutil.rmtree(work, ignore_errors=True)
    return lake.manifest(SearchManifest, path)


def noted(found: SearchManifest) -> SearchRecord:
    """What a training run says of the search that chose its options."""
    return SearchRecord(
        search=found.artifact_id,
        stage=found.stage,
        trials=len(found.trials),
        seconds=found.seconds,
        chosen=found.chosen,
    )


def _prove(
    task: Task,
    search: Search,
    stage: Stage,
    dataset: DatasetManifest,
    base: ResolvedModel,
    lake: Lake,
    work: Path,
    surroundings: Surroundings,
    begins: Beginning,
    processes: Processes,
) -> Ground:
    """Reads the data and makes a run's preflight once, with the options that ask for most."""

    def begin(model: Any) -> None:
        if begins.files is not None:
            begin_at(model, begins, lake, work / "begins_at", lambda line: None)

    hardest = most_demanding(search, stage)
    prepared = prepare(
        lake,
        dataset,
        base,
        hardest,
        task.system_prompt,
        work,
        surroundings.report,
        earlier=begins.earlier,
        begin=begin,
        processes=processes,
    )
    data = prepared.data
    units = len(data.held_out.shapes) if data.held_out else 0
    if units < FEWEST:
        raise BadInput(
            f"{PLACE}: the validation split has {units} units of kind {stage.kind}, and trials are compared on it",
            f"add rows or raise curation.validation_share until there are {FEWEST}, better {FEW}; or leave it out",
        )
    if units < FEW:
        surroundings.report(f"search: with {units} validation units the best trial may be so by chance")
    return Ground(base, prepared.tokenizer, data, prepared.device, begin, lake, work)


def _all_trials(limits: Limits, ground: Ground, followed: Followed) -> tuple[list[TrialRecord], EndedBy]:
    """Makes all trials that are still to make."""
    processes, search = followed.processes, limits.search
    trials = processes.gather(read_trials(followed.lake, followed.path) if processes.leads else [])[0]
    while True:
        following = processes.gather(limits.next_trial(trials) if processes.leads else "trials")[0]
        if isinstance(following, str):
            return trials, following
        ended = [trial for trial in trials if trial.number != following.number]
        left = search.minutes * 60 - sum(trial.seconds for trial in ended) - following.seconds
        if following.unended >= KILLS:
            reason = f"its process was killed {following.unended} times (out of memory?)"
            trial = following.model_copy(update={"state": "failed", "reason": reason})
        elif left <= 0:
            trial = following.model_copy(update={"state": "out_of_time"})
        else:
            trial = attempt_trial(search, ground, followed, ended, following, left)
        if processes.leads:
            keep_trial(followed.lake, followed.path, trial)
            followed.surroundings.report(f"search: {trial.in_words}")
        trials = [*ended, processes.gather(trial)[0]]


def _best(search: Search, trials: Sequence[TrialRecord]) -> TrialRecord:
    """The whole trial with the lowest loss.

    Raises:
        PermanentError: There is none.
    """
    whole = [trial for trial in trials if trial.state == "complete"]
    if whole:
        return min(whole, key=lambda trial: trial.measured[-1])
    if failed := [trial for trial in trials if trial.state == "failed"]:
        raise PermanentError(
            f"{PLACE}: none of {len(trials)} trials was trained to its end, {len(failed)} failed; "
            f"trial {failed[-1].number}: {failed[-1].reason}",
            f"lower {PLACE}.learning_rate, or leave out the values that fail",
        )
    raise PermanentError(
        f"{PLACE}: {search.minutes:g} minutes were over before one trial was trained to its end",
        f"raise {PLACE}.minutes: `finetune plan` tells how long the stage takes, a trial takes as long",
    )


def _parents(dataset: DatasetManifest, begins: Beginning) -> dict[str, str]:
    parents = {"curated_dataset": dataset.artifact_id}
    if begins.artifact_id is not None:
        parents["training_run" if begins.stages else "warm_start"] = begins.artifact_id
    return parents


def _publish(lake: Lake, manifest: SearchManifest, picture: bytes, work: Path) -> None:
    folder = work / "result"
    with disk_failures(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "trials.svg").write_bytes(picture)
        (folder / MANIFEST_NAME).write_bytes(manifest.to_bytes())
    lake.publish(folder, manifest.path)


def _summary(manifest: SearchManifest) -> str:
    best = next(trial for trial in manifest.trials if trial.number == manifest.best)
    states = {state: manifest.count(state) for state in ("complete", "pruned", "failed", "out_of_time")}
    told = ", ".join(f"{count} {state.replace('_', ' ')}" for state, count in states.items() if count)
    return f"trial {best.number}, validation {best.measured[-1]:.4f} ({told})"
