"""`finetune validate`: every problem of the task files, and of what they point to, at once."""

from pathlib import Path

from rich.console import Console
from rich.text import Text

from finetune_platform.commands.checks import Checked, Problem, check_task_file
from finetune_platform.commands.installation import find_task, read_settings, task_path
from finetune_platform.commands.terminal import console, plain, print_json
from finetune_platform.errors import BadInput
from finetune_platform.task_file import TASK_FILE_SUFFIXES

EXIT_BAD_INPUT = BadInput.exit_code


def validate_tasks(name: str | None, as_json: bool) -> int:
    """Checks one task file, or all; returns the exit code: 0, or 2 where something must be changed."""
    settings = read_settings()
    checked = [
        check_task_file(
            path, settings.lake_url, settings.cache_dir, settings.notify_urls.get_secret_value(), settings.launcher
        )
        for path in _files(name)
    ]
    _tell_of_namesakes(checked)
    ok = all(result.ok for result in checked)
    if as_json:
        print_json({"ok": ok, "tasks": [{**plain(result), "ok": result.ok} for result in checked]})
    else:
        for result in checked:
            _show(result, console())
    return 0 if ok else EXIT_BAD_INPUT


def _files(name: str | None) -> list[Path]:
    if name is not None:
        path = task_path(name) or find_task(name).path
        assert path is not None  # a task that was found was read from a file
        return [path]
    folder = read_settings().tasks_dir
    files = sorted(p for p in folder.glob("*") if p.suffix in TASK_FILE_SUFFIXES)
    if not files:
        raise BadInput(f"{folder}: no task file there", "`finetune init NAME` writes one; TASKS_DIR names the folder")
    return files


def _tell_of_namesakes(checked: list[Checked]) -> None:
    first: dict[str, Checked] = {}
    for result in checked:
        if result.task is None:
            continue
        other = first.setdefault(result.task, result)
        if other is not result:
            text = f"{result.path}: name: {result.task} is taken by {other.path}"
            result.problems.append(Problem(severity="error", problem=text, mend="name one differently"))


def _show(result: Checked, out: Console) -> None:
    mark = Text("✓ ", "green") if result.ok else Text("✗ ", "red")
    count = len(result.problems)
    told = "" if not count else f": {count} problem{'s' if count > 1 else ''}"
    out.print(mark + Text(result.path, "bold") + Text(told), soft_wrap=True)
    for problem in result.problems:
        style = "red" if problem.severity == "error" else "yellow"
        out.print(Text(f"  {problem.severity}: ", style) + Text(problem.problem), soft_wrap=True)
        out.print(Text(f"    mend: {problem.mend}", "dim"), soft_wrap=True)
    if result.ok:
        out.print(Text(f"  next: finetune run {result.task}", "dim"))
