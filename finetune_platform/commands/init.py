"""`finetune init`: a commented task file to start from."""

import os
import re
from contextlib import suppress
from importlib.resources import files
from pathlib import Path

from rich.text import Text

from finetune_platform.commands.installation import read_settings
from finetune_platform.commands.terminal import console
from finetune_platform.errors import BadInput
from finetune_platform.storage_errors import disk_failures
from finetune_platform.task import NAME_PATTERN

PLACEHOLDER = "NAME_OF_THE_TASK"


def init_task(name: str) -> None:
    """Writes the file and says what to do next."""
    path = write_task_file(name, read_settings().tasks_dir)
    out = console()
    out.print(Text("wrote ") + Text(str(path), "bold"))
    out.print(
        "\nnext:\n"
        f"  1. open {path}: every key is explained; say what the task is and where its rows are\n"
        f"  2. finetune validate {name}\n"
        f"  3. finetune run {name}",
        markup=False,
        soft_wrap=True,
    )


def write_task_file(name: str, folder: Path) -> Path:
    """Writes `folder/NAME.yaml` from the template.

    Raises:
        BadInput: The name is no task name, or the file exists.
        StorageFailed: The folder cannot be written.
    """
    if not re.match(NAME_PATTERN, name):
        near = re.sub(r"[^a-z0-9_]+", "_", name.lower()).strip("_0123456789")[:63]
        hint = f'; did you mean "{near}"?' if near else ""
        raise BadInput(f"{name}: not a task's name{hint}", "use lower case, digits and _, beginning with a letter")
    path = folder / f"{name}.yaml"
    text = template().replace(PLACEHOLDER, name)
    if path.exists():
        raise BadInput(f"{path}: exists; nothing was changed", "edit that file, or choose another name")
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with disk_failures(path):
            folder.mkdir(parents=True, exist_ok=True)
            temporary.write_text(text, encoding="utf-8")
            temporary.rename(path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    return path


def template() -> str:
    """The commented task file that ships with the package."""
    return (files("finetune_platform") / "templates" / "task.yaml").read_text(encoding="utf-8")
