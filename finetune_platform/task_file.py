"""Task files: YAML to `Task`, and every problem of a file at once, with file, line, field and what would be right.

What may stand in a file is the model in `task.py`.
"""

import re
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from finetune_platform.errors import BadInput
from finetune_platform.strict import Strict, nearest
from finetune_platform.task import Task

TASK_FILE_SUFFIXES = (".yaml", ".yml")
F = TypeVar("F", bound=Strict)


def load_task(path: Path) -> Task:
    """Reads and checks one task file.

    Raises:
        BadInput: With one line `FILE:LINE: FIELD: what is wrong` a problem, all problems at once.
    """
    return read_strict(path, Task, "change these keys; `finetune init NAME` writes a commented file")


def read_strict(path: Path, model: type[F], mend: str) -> F:
    """Reads a YAML file into a model that has a `path` of its own.

    Args:
        path: The file.
        model: What may stand in it: `Strict` all through, with a field `path`.
        mend: What to do about wrong keys.

    Raises:
        BadInput: With one line `FILE:LINE: FIELD: what is wrong` a problem, all problems at once.
    """
    text = _read_text(path)
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}:{mark.line + 1}" if mark else str(path)
        raise BadInput(f"{place}: not YAML: {getattr(error, 'problem', error)}", "fix the syntax there") from error
    if not isinstance(values, dict):
        raise BadInput(f"{path}:1: a {model.__name__.lower()} file is a mapping of keys", mend)
    if "path" in values:
        raise BadInput(f"{path}: path: unknown key", "remove it")
    try:
        return model.model_validate({**values, "path": path.resolve()})
    except ValidationError as error:
        lines = [_explain(path, model, node, problem) for problem in error.errors()]
        raise BadInput("\n".join(lines), mend) from error


def find_tasks(folder: Path) -> list[Task]:
    """Every task file in `folder`, by name; no folder means no task.

    Raises:
        BadInput: A file is wrong, or two files name the same task.
    """
    files = sorted(p for p in folder.glob("*") if p.suffix in TASK_FILE_SUFFIXES) if folder.is_dir() else []
    tasks: dict[str, Task] = {}
    for path in files:
        task = load_task(path)
        if task.name in tasks:
            raise BadInput(f"{path}: name: {task.name} is taken by {tasks[task.name].path}", "name one differently")
        tasks[task.name] = task
    return [tasks[name] for name in sorted(tasks)]


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        near = nearest(path.name, [p.name for p in path.parent.glob("*")] if path.parent.is_dir() else [])
        raise BadInput(f"{path}: no such file{near}", "`finetune init NAME` writes one") from error
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}: byte {error.start} is not UTF-8", "save the file as UTF-8") from error


def _explain(path: Path, model: type[Strict], node: yaml.Node | None, problem: Any) -> str:
    loc = problem["loc"]
    line = _line_of(node, loc)
    field = ".".join(str(part) for part in loc) or "task"
    message = str(problem["msg"]).removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        message = f"unknown key{nearest(str(loc[-1]), _keys_at(model, loc[:-1]))}"
    elif problem["type"] == "missing":
        message = "this key is missing"
    elif problem["type"] not in ("value_error", "literal_error"):
        message = f"{message} (it is {problem['input']!r})"
    elif problem["type"] == "literal_error":
        expected = re.findall(r"'([^']*)'", message)
        message = f"{problem['input']!r} is not one of {', '.join(expected)}{nearest(str(problem['input']), expected)}"
    return f"{path}:{line}: {field}: {message}"


def _line_of(node: yaml.Node | None, loc: tuple[int | str, ...]) -> int:
    """Line of the deepest part of `loc` that the file has, counted from 1."""
    line = 1
    for part in loc:
        if isinstance(node, yaml.MappingNode):
            found = [(key, value) for key, value in node.value if key.value == str(part)]
            if not found:
                break
            line, node = found[0][0].start_mark.line + 1, found[0][1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
    return line


def _keys_at(whole: type[Strict], loc: tuple[int | str, ...]) -> list[str]:
    model: Any = whole
    for part in loc:
        if isinstance(part, str) and part in getattr(model, "model_fields", {}):
            model = _model_in(model.model_fields[part].annotation)
    return [k for k in getattr(model, "model_fields", {}) if k != "path"]


def _model_in(annotation: Any) -> Any:
    """The model class inside `list[X]`, `X | None` and the like."""
    if typing.get_origin(annotation) in (list, typing.Union, types.UnionType):
        for inner in typing.get_args(annotation):
            if hasattr(_model_in(inner), "model_fields"):
                return _model_in(inner)
    return annotation
