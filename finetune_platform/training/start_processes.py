"""Starts the processes of one run on this machine, and ends them together.

torchrun's variables, so that torchrun itself does as well (and over several machines); but torchrun gives each process
a session of its own, where the SIGKILL that ends a cancelled run does not arrive, and returns 1 for every failure.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Literal

from finetune_platform.errors import BadInput
from finetune_platform.training.lifeline import LAST_WORDS_S

POLL_S = 0.1


def processes_here(asked: int | Literal["auto"]) -> int:
    """How many processes a run takes on this machine: as many as were asked for, or one for every GPU.

    Raises:
        BadInput: There are GPUs, and fewer than that.
    """
    import torch

    gpus = torch.cuda.device_count()
    if asked == "auto":
        return max(1, gpus)
    if 0 < gpus < asked:
        raise BadInput(
            f"training.processes is {asked}, and this machine has {gpus} GPU{'s' if gpus > 1 else ''}",
            "write `auto`, or take a larger machine",
        )
    return asked


def start_processes(count: int, arguments: Sequence[str], stop: Callable[[], bool]) -> int:
    """Runs the trainer `count` times as one company, to the end.

    Args:
        count: Processes.
        arguments: The command line of each; they end with this process.
        stop: Asked again and again; True is passed on as SIGTERM.

    Returns:
        0, or the exit code of the process that failed first; negative: it was killed by that signal.
    """
    import torch

    # Kept by this process, not by the first of the others: no port is chosen that somebody could take in between.
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    threads = str(max(1, len(os.sched_getaffinity(0)) // count))
    company = [
        subprocess.Popen(
            [sys.executable, "-m", "finetune_platform.training", *arguments, "--exit-with-parent"],
            env={
                "OMP_NUM_THREADS": threads,
                **os.environ,
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(count),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(store.port),
                "TORCHELASTIC_USE_AGENT_STORE": "True",
            },
            stdin=subprocess.PIPE,
        )
        for rank in range(count)
    ]
    try:
        return _ended(company, stop)
    finally:
        for process in company:
            process.kill()
            process.wait()


def _ended(company: Sequence["subprocess.Popen[bytes]"], stop: Callable[[], bool]) -> int:
    asked = False
    while True:
        codes = [process.poll() for process in company]
        failed = [code for code in codes if code]
        if failed or (stop() and not asked):
            asked = True
            for process in company:
                process.terminate()
        if failed:
            _wait(company)
            # A signal tells more than what the others say of their lost companion.
            return min(failed)
        if all(code == 0 for code in codes):
            return 0
        time.sleep(POLL_S)


def _wait(company: Sequence["subprocess.Popen[bytes]"]) -> None:
    deadline = time.monotonic() + LAST_WORDS_S
    while any(process.poll() is None for process in company) and time.monotonic() < deadline:
        time.sleep(POLL_S)
