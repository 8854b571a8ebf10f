"""The terminal: text for people on a console, one JSON document for scripts, failures on stderr."""

import json
import sys
from typing import Any

from pydantic import BaseModel
from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from finetune_platform.errors import FinetuneError

WIDEST = 10_000
"""Columns of a line that must not be cut."""


LOG_COLUMNS = 120


def console() -> Console:
    """Stdout, for people; a log file is not folded to 80 columns."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else LOG_COLUMNS)


def print_tree(tree: Tree) -> None:
    """A tree on stdout, its lines whole however wide: a hash or a URL in two pieces cannot be copied."""
    Console(highlight=False, width=WIDEST).print(tree, soft_wrap=True)


def plain(value: Any) -> Any:
    """A value as JSON holds it."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def print_json(value: Any) -> None:
    """One document on stdout."""
    sys.stdout.write(json.dumps(plain(value), indent=2, ensure_ascii=False, default=str) + "\n")


def print_error(error: FinetuneError) -> None:
    """What is wrong in red and what to change, on stderr; a long place is never wrapped apart."""
    target = Console(stderr=True, highlight=False, soft_wrap=True)
    target.print(Text("error: ", "bold red") + Text(error.problem, "red"))
    target.print(Text("  mend: ", "bold") + Text(error.mend))
