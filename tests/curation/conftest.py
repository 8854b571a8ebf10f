"""A task whose sources are files of the test's own folder."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from example_rows import MakeTask, Write, tickets_task

from finetune_platform.lake import Lake


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the task file stands."""
    return tmp_path / "project"


@pytest.fixture
def write(folder: Path) -> Write:
    """Writes a file beside the task file."""

    def write_file(name: str, data: bytes) -> Path:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path

    return write_file


@pytest.fixture
def make_task(folder: Path) -> MakeTask:
    """A task by its sources and curation options."""
    return partial(tickets_task, folder)


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Lake]:
    """A lake on the local disk that must hold no unpublished file when the test ends."""
    lake = Lake(str(tmp_path / "lake"))
    yield lake
    folders = {info.path.rpartition("/")[0] for info in lake.list("") if "/raw/" not in info.path}
    half = [path for path in folders if "/data_docs/" not in path and not lake.is_published(path)]
    assert not half, f"half-written: {half}"
