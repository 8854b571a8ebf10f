"""What a command works on: the settings, the lake, the database and the task files of this installation."""

import difflib
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from finetune_platform.database import Database
from finetune_platform.errors import BadInput
from finetune_platform.lake import Lake
from finetune_platform.settings import Settings, settings
from finetune_platform.task import Task
from finetune_platform.task_file import TASK_FILE_SUFFIXES, find_tasks, load_task


def read_settings() -> Settings:
    """This process's settings.

    Raises:
        BadInput: An environment variable holds something it cannot.
    """
    try:
        return settings()
    except ValidationError as error:
        lines = [f"{str(e['loc'][0]).upper()}: {e['msg']} (it is {e['input']!r})" for e in error.errors() if e["loc"]]
        raise BadInput("environment: " + "; ".join(lines), "change or unset these variables") from error


def open_lake() -> Lake:
    return Lake(read_settings().lake_url)


def open_database() -> Database:
    return Database(read_settings().database_url)


def task_path(name: str) -> Path | None:
    """The file that a name or path means, None where no file of that name exists."""
    given = Path(name)
    if given.suffix in TASK_FILE_SUFFIXES or given.is_file():
        return given
    folder = read_settings().tasks_dir
    return next((path for suffix in TASK_FILE_SUFFIXES if (path := folder / f"{name}{suffix}").is_file()), None)


def find_task(name: str) -> Task:
    """The task of that name, or in that file.

    Raises:
        BadInput: No such task (suggests the nearest name), or its file is wrong.
    """
    path = task_path(name)
    if path is not None:
        task = load_task(path)
        if Path(name).suffix or task.name == name:
            return task
    tasks = {task.name: task for task in find_tasks(read_settings().tasks_dir)}
    if name not in tasks:
        raise no_such("task", name, list(tasks), f"in {read_settings().tasks_dir}; `finetune init {name}` writes one")
    return tasks[name]


def some_tasks(name: str | None) -> list[Task]:
    """The named task, or every task.

    Raises:
        BadInput: No such task, none at all, or a wrong file.
    """
    if name is not None:
        return [find_task(name)]
    folder = read_settings().tasks_dir
    tasks = find_tasks(folder)
    if not tasks:
        raise BadInput(f"{folder}: no task file there", "`finetune init NAME` writes one; TASKS_DIR names the folder")
    return tasks


def no_such(kind: str, name: str, known: Sequence[str], where: str) -> BadInput:
    """The error for a name that nothing has."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    hint = f'; did you mean "{near[0]}"?' if near else ""
    return BadInput(f"{name}: no such {kind}{hint}", f"known: {', '.join(known) or 'none'} ({where})")
