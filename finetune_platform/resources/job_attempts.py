"""What is known of a training on somebody else's machines: a folder in the lake for every attempt, readable anywhere.

`name.json` is written before anything is submitted, `submitted.json` with the place's id after, `ended.json` last: a
process killed in between submits nothing twice. Following a job belongs in `remote_job.py`.
"""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from finetune_platform.identity import content_id
from finetune_platform.lake import Lake
from finetune_platform.manifests_training import TrainingManifest
from finetune_platform.resources.training_job import TrainingJob
from finetune_platform.training import TRAINING_VERSION

RESULT_KEY = "training_run_id"
NAME, SUBMITTED, ENDED = "name.json", "submitted.json", "ended.json"


class Attempt(NamedTuple):
    """One try at a training: a folder in the lake, and the name under which the place knows it."""

    lake: Lake
    folder: str
    name: str

    def path(self, file: str) -> str:
        return f"{self.folder}/{file}"

    def put(self, file: str, content: bytes) -> None:
        self.lake.put(self.path(file), content)

    def note(self, file: str, content: Mapping[str, Any]) -> None:
        self.put(file, json.dumps(content, indent=2).encode())

    def noted(self, file: str) -> dict[str, Any] | None:
        try:
            return dict(json.loads(self.lake.get(self.path(file))))
        except FileNotFoundError:
            return None


def launch_folder(job: TrainingJob, place: str, more: Mapping[str, Any] | None = None) -> str:
    """Where all attempts at this training at this place are noted: a hash of what decides its outcome.

    Args:
        job: What is trained.
        place: Where.
        more: What decides there besides.
    """
    launch = content_id(
        "tj",
        {
            "place": place,
            # Two installations may share an account, where a name belongs to one job.
            "lake": job.lake.url,
            "dataset": job.dataset.artifact_id,
            "warm_start": job.warm_start,
            "base_model": job.task.base_model.model_dump(mode="json"),
            "system_prompt": job.task.system_prompt,
            "training": job.task.training.model_dump(mode="json"),
            "version": TRAINING_VERSION,
            **(more or {}),
        },
    )
    return f"{job.task.name}/training_jobs/{launch}"


def take_up(lake: Lake, folder: str) -> Attempt:
    """The newest attempt that has not ended, or else a new one, noted before anything is submitted."""
    names = {info.path.removeprefix(f"{folder}/") for info in lake.list(folder)}
    numbers = {int(name.partition("/")[0]) for name in names}
    newest = max(numbers, default=0)
    if newest == 0 or f"{newest}/ended.json" in names:
        newest += 1
    attempt = Attempt(lake, f"{folder}/{newest}", f"{folder.rpartition('/')[2]}-{newest}")
    lake.put_new(attempt.path(NAME), json.dumps({"name": attempt.name}).encode())
    return attempt


def finished_run(job: TrainingJob, folder: str) -> str | None:
    """The training run that the last attempt left, if it is still in the lake."""
    ends = [info.path for info in job.lake.list(folder) if info.path.endswith("/ended.json")]
    runs = [json.loads(job.lake.get(path)).get(RESULT_KEY) for path in ends]
    there = [run for run in runs if run and job.lake.is_published(TrainingManifest.path_of(job.task.name, run))]
    return there[-1] if there else None
