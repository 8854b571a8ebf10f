"""Child processes that live and die together: started as process groups, watched, stopped to the last grandchild."""

import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from finetune_platform.commands.dagster_home import environment_with
from finetune_platform.errors import BadInput, PermanentError

STOP_S = 20.0
"""How long a group may take to end by itself; Dagster's code servers finish their runs' bookkeeping first."""

LOG_LINES = 15
POLL_S = 0.2
PORTS_TRIED = 50


@dataclass
class Service:
    """One server: how it is started (with `environment` besides this process's), where it answers and writes."""

    name: str
    command: Sequence[str]
    url: str
    ready_url: str
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def start(self) -> None:
        """Starts it in a process group of its own, so that all it starts can be stopped with it."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=environment_with(self.environment),
            )

    @property
    def exit_code(self) -> int | None:
        return self.process.poll() if self.process else None

    def answers(self) -> bool:
        """Whether it serves requests."""
        try:
            with urllib.request.urlopen(self.ready_url, timeout=2) as response:
                return bool(response.status < 400)
        except (urllib.error.URLError, OSError):
            return False

    def last_lines(self) -> str:
        """The end of its log."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines() if self.log.is_file() else []
        return "\n".join(f"  | {line}" for line in lines[-LOG_LINES:])


def wait_until_ready(services: Sequence[Service], timeout_s: float, tell: Callable[[Service], None]) -> None:
    """Returns when all answer; tells of each.

    Raises:
        PermanentError: One ended, or does not answer in time; with the end of its log.
    """
    waiting = list(services)
    deadline = time.monotonic() + timeout_s
    while waiting:
        raise_if_ended(services)
        for service in [s for s in waiting if s.answers()]:
            waiting.remove(service)
            tell(service)
        if waiting and time.monotonic() > deadline:
            slow = waiting[0]
            raise PermanentError(
                f"{slow.name} does not answer at {slow.ready_url} after {timeout_s:.0f} s\n{slow.last_lines()}",
                f"the whole log is {slow.log}",
            )
        time.sleep(POLL_S)


def raise_if_ended(services: Sequence[Service]) -> None:
    """Raises PermanentError where a service has ended, with the end of its log."""
    for service in services:
        if service.exit_code is not None:
            raise PermanentError(
                f"{service.name} ended with exit code {service.exit_code}\n{service.last_lines()}",
                f"correct what its log says, then start again; the whole log is {service.log}",
            )


def stop(services: Sequence[Service], timeout_s: float = STOP_S) -> None:
    """Ends every group: asks, waits, and kills what is left; at once where a second Ctrl-C interrupts the waiting."""
    groups = [service.process for service in services if service.process is not None]
    try:
        for process in groups:
            _signal_group(process, signal.SIGTERM)
        deadline = time.monotonic() + timeout_s
        while any(_alive(process) for process in groups) and time.monotonic() < deadline:
            time.sleep(POLL_S)
    finally:
        for process in groups:
            _signal_group(process, signal.SIGKILL)
            process.wait()


def choose_port(asked: int | None, first: int, host: str, option: str, but: Sequence[int] = ()) -> int:
    """The port asked for, or the first free one from `first` on.

    Raises:
        BadInput: The port asked for is taken, or none is free.
    """
    if asked is not None:
        if asked in but or not _free(asked, host):
            raise BadInput(f"port {asked} on {host} is taken", f"stop what uses it, or give another {option}")
        return asked
    for port in range(first, first + PORTS_TRIED):
        if port not in but and _free(port, host):
            return port
    raise BadInput(f"no port from {first} to {first + PORTS_TRIED - 1} is free on {host}", f"give one with {option}")


def _free(port: int, host: str) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As servers bind: a port whose last connection is still closing counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return


def _alive(process: subprocess.Popen[bytes]) -> bool:
    """Whether anything of the group is left; the leader's own end is collected on the way."""
    process.poll()
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return False
    return True
