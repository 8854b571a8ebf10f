"""Several trainers that compute together, forked from one with torch imported. Fixtures belong in conftest.py."""

import multiprocessing
import os
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.context import ForkServerProcess
from typing import Any

import torch

PRELOADED = ["mlflow", "torch", "transformers", "peft", "finetune_platform.training.__main__"]


class Company:
    """`count` processes that each run `target(*arguments)`, as a launcher would have started them."""

    def __init__(
        self, count: int, target: Callable[..., None], *arguments: Any, environment: Mapping[str, str] | None = None
    ) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        self._store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        self.processes: list[ForkServerProcess] = []
        for rank in range(count):
            told = {
                **(environment or {}),
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(count),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(self._store.port),
                "TORCHELASTIC_USE_AGENT_STORE": "True",
            }
            self.processes.append(context.Process(target=_run, args=(told, target, arguments)))
        for process in self.processes:
            process.start()

    def codes(self) -> list[int | None]:
        """The exit codes, once all have ended; -9 of one that hangs."""
        for process in self.processes:
            process.join(120)
            if process.is_alive():
                process.kill()
                process.join()
        return [process.exitcode for process in self.processes]


def _run(environment: Mapping[str, str], target: Callable[..., None], arguments: Sequence[Any]) -> None:
    os.environ.update(environment)
    torch.set_num_threads(1)
    target(*arguments)
