"""What tests of notifications share: servers that take messages, and a task."""

from collections.abc import Iterator
from typing import Any

import pytest
from receivers import MailServer, WebHook

from finetune_platform.task import Task
from finetune_platform.task_file import load_task


@pytest.fixture
def hook() -> Iterator[WebHook]:
    server = WebHook()
    yield server
    server.stop()


@pytest.fixture
def mail() -> Iterator[MailServer]:
    server = MailServer()
    yield server
    server.stop()


@pytest.fixture
def task(task_file: Any) -> Task:
    return load_task(task_file())
