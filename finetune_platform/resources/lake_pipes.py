"""Dagster's end of Pipes over the lake: any bucket that both sides reach, and a new step finds an old job's words.

The trainer's end, and where messages lie, is `training/lake_pipes.py`.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dagster import PipesContextInjector, PipesMessageHandler, PipesMessageReader
from dagster_pipes import PipesContextData, PipesParams

from finetune_platform.lake import Lake
from finetune_platform.training.lake_pipes import LAKE_PATH, message_path


class LakeContextInjector(PipesContextInjector):
    """Leaves the step's context in the lake: some places allow a variable only a few hundred characters."""

    def __init__(self, lake: Lake, path: str) -> None:
        self._lake, self._path = lake, path

    @contextmanager
    def inject_context(self, context_data: PipesContextData) -> Iterator[PipesParams]:
        self._lake.put(self._path, json.dumps(context_data).encode())
        yield {LAKE_PATH: self._path}

    def no_messages_debug_text(self) -> str:
        return f"The context lies at {self._lake.url_of(self._path)}."


class LakeMessageReader(PipesMessageReader):
    """Reads messages whenever it is asked to; a fresh reader begins at the first one."""

    def __init__(self, lake: Lake, folder: str) -> None:
        self._lake, self._folder = lake, folder
        self._next = 1
        self._handler: PipesMessageHandler | None = None
        self._closing: dict[str, Any] | None = None

    @contextmanager
    def read_messages(self, handler: PipesMessageHandler) -> Iterator[PipesParams]:
        self._handler = handler
        yield {LAKE_PATH: self._folder}
        if self._closing is not None:
            handler.handle_message(self._closing)  # type: ignore[arg-type]

    def read(self) -> None:
        """Hands on everything that has been written since the last call."""
        assert self._handler is not None, "read_messages is entered first"
        while True:
            try:
                piece = self._lake.get(message_path(self._folder, self._next))
            except FileNotFoundError:
                return
            self._next += 1
            for line in piece.splitlines():
                message = json.loads(line)
                # A lost machine's job is closed and opened again by the next one: only the last close is the end.
                self._closing = message if message["method"] == "closed" else None
                if self._closing is None:
                    self._handler.handle_message(message)

    def no_messages_debug_text(self) -> str:
        return f"Messages were expected at {self._lake.url_of(self._folder)}."
