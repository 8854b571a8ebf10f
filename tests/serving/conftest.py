"""What tests of the serving core share: a task and a database that can go away."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy.engine import make_url

from finetune_platform.database import Database
from finetune_platform.task import Task
from finetune_platform.task_file import load_task

Outage = Callable[[], Any]


@pytest.fixture
def topics(task_file: Any) -> Task:
    """A task with a format and refusals."""
    path = task_file(
        name="topics", evaluation={"output_pattern": "card|transfer|login"}, serving={"refusal_pattern": "^I cannot"}
    )
    return load_task(path)


@pytest.fixture
def outage(database: Database, database_url: str, postgres_server: Any) -> Outage:
    """A block in which `database` is away: the server lets nobody in, or the file is gone."""
    database.upgrade()
    url = make_url(database_url)

    @contextmanager
    def away() -> Iterator[None]:
        if url.get_backend_name() == "sqlite":
            file = Path(str(url.database))
            aside = file.with_name("aside")
            aside.mkdir()
            database.close()
            for part in file.parent.glob(f"{file.name}*"):
                part.rename(aside / part.name)
            file.mkdir()
            yield
            file.rmdir()
            for part in aside.iterdir():
                part.rename(file.parent / part.name)
            shutil.rmtree(aside)
            database.close()
            return
        with psycopg.connect(postgres_server.get_uri(), autocommit=True) as server:
            server.execute(f"ALTER DATABASE {url.database} ALLOW_CONNECTIONS false")
            server.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [url.database])
            yield
            server.execute(f"ALTER DATABASE {url.database} ALLOW_CONNECTIONS true")

    return away
