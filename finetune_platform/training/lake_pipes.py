"""The trainer's end of Dagster Pipes over the lake, for machines that share nothing else with Dagster.

Dagster's end is `resources/lake_pipes.py`. Messages lie at `messages/000001.jsonl` and on: a machine that takes a
lost one's place goes on counting where that one stopped.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypedDict

from dagster_pipes import (
    PipesContextData,
    PipesContextLoader,
    PipesEnvVarParamsLoader,
    PipesMessage,
    PipesMessageWriter,
    PipesMessageWriterChannel,
    PipesParams,
)

from finetune_platform.errors import TransientError
from finetune_platform.lake import Lake
from finetune_platform.settings import settings

LAKE_PATH = "lake_path"
"""Name of the Pipes parameter: a path inside the lake. Its presence says that Pipes goes this way."""

SEND_EVERY_S = 4.0


class LakeContextLoader(PipesContextLoader):
    """Reads the context that Dagster left in the lake."""

    def __init__(self, lake: Lake) -> None:
        self._lake = lake

    @contextmanager
    def load_context(self, params: PipesParams) -> Iterator[PipesContextData]:
        yield json.loads(self._lake.get(params[LAKE_PATH]))


class LakeMessageChannel(PipesMessageWriterChannel):
    """Writes down what was said since the last time; what could not be written travels with what is said next."""

    def __init__(self, lake: Lake, folder: str) -> None:
        self._lake, self._folder = lake, folder
        self._next = len(lake.list(folder)) + 1
        self._lock = threading.Lock()
        self._unsent: list[str] = []

    def write_message(self, message: PipesMessage) -> None:
        with self._lock:
            self._unsent.append(json.dumps(message))

    def send(self) -> None:
        with self._lock:
            sending = list(self._unsent)
        if not sending:
            return
        try:
            self._lake.put(message_path(self._folder, self._next), "\n".join(sending).encode())
        except TransientError:
            return  # Training itself finds out whether the lake is gone; words can wait.
        self._next += 1
        with self._lock:
            del self._unsent[: len(sending)]

    def send_until(self, closed: threading.Event) -> None:
        while not closed.wait(SEND_EVERY_S):
            self.send()
        self.send()


class LakeMessageWriter(PipesMessageWriter[LakeMessageChannel]):
    """Opens the channel, and a thread that sends every few seconds."""

    def __init__(self, lake: Lake) -> None:
        self._lake = lake

    @contextmanager
    def open(self, params: PipesParams) -> Iterator[LakeMessageChannel]:
        channel, closed = LakeMessageChannel(self._lake, params[LAKE_PATH]), threading.Event()
        sender = threading.Thread(target=channel.send_until, args=(closed,), name="pipes", daemon=True)
        sender.start()
        try:
            yield channel
        finally:
            closed.set()
            sender.join()


class _Ends(TypedDict, total=False):
    context_loader: LakeContextLoader
    message_writer: LakeMessageWriter


def lake_pipes() -> _Ends:
    """What `open_dagster_pipes` needs where Dagster asked for messages in the lake; nothing where it did not."""
    if LAKE_PATH not in PipesEnvVarParamsLoader().load_messages_params():
        return {}
    lake = Lake(settings().lake_url)
    return {"context_loader": LakeContextLoader(lake), "message_writer": LakeMessageWriter(lake)}


def message_path(folder: str, number: int) -> str:
    """Where the messages' piece of this number lies; pieces count from 1."""
    return f"{folder}/{number:06d}.jsonl"
