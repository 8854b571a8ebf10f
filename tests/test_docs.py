"""The documentation against the code: its keys, variables and commands exist, and its links lead somewhere."""

import re
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from finetune_platform.cli import app
from finetune_platform.settings import Settings
from finetune_platform.task import Task
from finetune_platform.task_file import load_task

REPOSITORY = Path(__file__).parent.parent
DOCS = REPOSITORY / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), *REPOSITORY.glob("*.md")])
IN_WORDS = "–"


def named(page: Path) -> str:
    return page.relative_to(REPOSITORY).as_posix()


def model_in(annotation: Any) -> tuple[type[BaseModel] | None, bool]:
    """The model inside an annotation, if any, and whether it stands in a list."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, False
    if typing.get_origin(annotation) in (list, typing.Union, types.UnionType):
        for inner in typing.get_args(annotation):
            if (model := model_in(inner)[0]) is not None:
                return model, typing.get_origin(annotation) is list
    return None, False


def keys_of(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every key of a model with its default, those of nested models after their own."""
    for name, field in model.model_fields.items():
        if field.exclude:
            continue
        yield f"{prefix}{name}", field.get_default(call_default_factory=True)
        inner, listed = model_in(field.annotation)
        if inner is not None:
            yield from keys_of(inner, f"{prefix}{name}{'[]' if listed else ''}.")


def table_rows(page: Path) -> list[list[str]]:
    """The rows of a page's tables whose first cell is code, cells without their backticks."""
    lines = [line for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    return [[cell.strip().strip("`") for cell in line.strip("| ").split(" | ")] for line in lines]


def plain(value: Any) -> Any:
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value.model_dump() if isinstance(value, BaseModel) else value


def test_the_task_file_page_has_every_key_and_no_other() -> None:
    documented = [row[0] for row in table_rows(DOCS / "task-file.md")]
    known = [key for key, _ in keys_of(Task)]
    assert sorted(documented) == sorted(known)


def test_the_task_file_page_tells_the_defaults() -> None:
    told = {row[0]: row[2] for row in table_rows(DOCS / "task-file.md")}
    for key, default in keys_of(Task):
        if told[key] == IN_WORDS:
            continue
        if told[key] == "required":
            assert default is PydanticUndefined, key
        else:
            assert yaml.safe_load(told[key]) == plain(default), key


def test_the_production_page_has_every_variable() -> None:
    variables = {str(field.validation_alias or name).upper() for name, field in Settings.model_fields.items()}
    assert variables == {row[0] for row in table_rows(DOCS / "in-production.md") if row[0].isupper()}


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_relative_links_resolve(page: Path) -> None:
    text = without_code(page.read_text(encoding="utf-8"))
    missing = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target or target.startswith("mailto:"):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            missing.append(target)
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_commands_exist(page: Path) -> None:
    commands = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    commands |= {str(group.name) for group in app.registered_groups}
    used = set(re.findall(r"(?:^|[`$ ])(?<!\w)finetune ([a-z]+)\b(?![_-])", code_in(page.read_text(encoding="utf-8"))))
    assert used <= commands


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_example_task_files_are_right(page: Path, tmp_path: Path) -> None:
    for block in re.findall(r"^```yaml\n(name: .*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE):
        file = tmp_path / "task.yaml"
        file.write_text(block, encoding="utf-8")
        load_task(file)


def test_the_checks_themselves_see_something() -> None:
    assert len(list(keys_of(Task))) > 80
    assert "finetune validate" in code_in((DOCS / "your-own-task.md").read_text(encoding="utf-8"))


def without_code(text: str) -> str:
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))


def code_in(text: str) -> str:
    blocks = re.findall(r"^```(?:console|bash|sh)\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    spans = re.findall(r"(`[^`\n]+`)", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))
    return "\n".join([*blocks, *spans])


def anchors(page: Path) -> set[str]:
    """The fragments that headings get: lower case, spaces as hyphens, other signs dropped."""
    headings = re.findall(r"^#+ +(.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
