"""Ensemble files: one served name in front of several tasks, and what decides between them.

They lie in the folder `ensembles` beside the task files. Training the classifier is `ensemble_build.py`'s.
"""

from collections.abc import Collection
from pathlib import Path

from pydantic import Field, field_validator, model_validator

from finetune_platform.errors import BadInput
from finetune_platform.strict import Strict, nearest
from finetune_platform.task import NAME_PATTERN
from finetune_platform.task_file import TASK_FILE_SUFFIXES, read_strict

FOLDER = "ensembles"
MEND = "change these keys; docs/ensembles.md has an example"


class Ensemble(Strict):
    """An ensemble file.

    Attributes:
        name: The model name that applications call.
        specialists: Tasks, one of which answers a request that the classifier is sure about.
        general: The task that answers all others.
        min_confidence: Calibrated probability below which the general task answers.
        embedding_model: Folder of a local sentence encoder; a relative one starts at the file.
        max_rows: Rows of each task's training split that the classifier learns from.
    """

    name: str = Field(pattern=NAME_PATTERN)
    description: str = ""
    specialists: list[str] = Field(min_length=1)
    general: str
    min_confidence: float = Field(default=0.7, gt=0, lt=1)
    embedding_model: str
    max_rows: int = Field(default=5000, gt=0)
    path: Path | None = Field(default=None, exclude=True)

    @field_validator("specialists")
    @classmethod
    def each_once(cls, specialists: list[str]) -> list[str]:
        if len(set(specialists)) != len(specialists):
            raise ValueError("each task once")
        return specialists

    @model_validator(mode="after")
    def general_is_another(self) -> "Ensemble":
        if self.general in self.specialists:
            raise ValueError(f"general: {self.general} is one of the specialists; name another task")
        return self

    @property
    def members(self) -> list[str]:
        return [*self.specialists, self.general]

    @property
    def embedding_folder(self) -> Path:
        return (self.path.parent if self.path else Path.cwd()) / self.embedding_model


def find_ensembles(tasks_dir: Path, tasks: Collection[str]) -> list[Ensemble]:
    """Every ensemble file beside the task files, by name; no folder means none.

    Args:
        tasks_dir: Folder of the task files.
        tasks: Names of the tasks there.

    Raises:
        BadInput: A file is wrong, names a task that is not there, or takes a name that is taken.
    """
    folder = tasks_dir / FOLDER
    files = sorted(p for p in folder.glob("*") if p.suffix in TASK_FILE_SUFFIXES) if folder.is_dir() else []
    found: dict[str, Ensemble] = {}
    for path in files:
        ensemble = read_strict(path, Ensemble, MEND)
        if ensemble.name in found or ensemble.name in tasks:
            raise BadInput(
                f"{path}: name: {ensemble.name} is taken by another ensemble or task", "name one differently"
            )
        for member in ensemble.members:
            if member not in tasks:
                hint = nearest(member, sorted(tasks))
                raise BadInput(f"{path}: {member}: no such task{hint}", f"known: {', '.join(sorted(tasks)) or 'none'}")
        found[ensemble.name] = ensemble
    return [found[name] for name in sorted(found)]
