"""`finetune up`: the Dagster webserver and daemon and the MLflow UI, until Ctrl-C."""

import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.text import Text

from finetune_platform.commands.dagster_home import prepare
from finetune_platform.commands.installation import read_settings
from finetune_platform.commands.processes import Service, choose_port, raise_if_ended, stop, wait_until_ready
from finetune_platform.commands.terminal import console
from finetune_platform.settings import Settings
from finetune_platform.storage_errors import disk_failures

DAGSTER_PORT, MLFLOW_PORT = 3000, 5000
READY_S = 180.0
"""Loading the code location and making the databases takes tens of seconds on a slow disk."""

CHECK_S = 1.0
WORKSPACE_NAME = "workspace.yaml"
WORKSPACE = """\
load_from:
  - python_module:
      module_name: finetune_platform.definitions
      location_name: finetune_platform
"""
"""Sensors keep their cursors by the location's name: it must be the same however Dagster is started."""


def up(port: int | None, mlflow_port: int | None, host: str) -> int:
    """Starts everything, says where it is, and stops everything on Ctrl-C.

    Raises:
        BadInput: A port is taken.
        PermanentError: One of the servers ended; with the end of its log.
    """
    settings = read_settings()
    services = list(planned_services(settings, port, mlflow_port, host))
    prepare(settings)
    out = console()
    with _sigterm_as_interrupt():
        try:
            out.print(Text(f"starting {', '.join(s.name for s in services)}; logs in {services[0].log.parent}", "dim"))
            for service in services:
                service.start()
            wait_until_ready(services, READY_S, lambda s: out.print(Text(f"{s.name:<8} {s.url}", "bold")))
            out.print(Text("Ctrl-C stops all", "dim"))
            while True:
                raise_if_ended(services)
                time.sleep(CHECK_S)
        except KeyboardInterrupt:
            out.print(Text("stopping", "dim"))
            return 0
        finally:
            stop(services)


def planned_services(settings: Settings, port: int | None, mlflow_port: int | None, host: str) -> Iterator[Service]:
    """What will be started, and where; an MLflow server that runs elsewhere is not started here."""
    logs = settings.finetune_home / "logs"
    dagster_port = choose_port(port, DAGSTER_PORT, host, "--port")
    address = f"http://{_reachable(host)}:{dagster_port}"
    # `dagster dev` starts webserver, daemon and one code server for both; by themselves each would load the code.
    command = [sys.executable, "-m", "dagster", "dev", "-w", str(_workspace(settings))]
    command += ["--host", host, "--port", str(dagster_port)]
    yield Service("Dagster", command, address, f"{address}/server_info", logs / "dagster.log")
    if settings.mlflow_tracking_uri.startswith(("http://", "https://")):
        return
    chosen = choose_port(mlflow_port, MLFLOW_PORT, host, "--mlflow-port", but=(dagster_port,))
    address = f"http://{_reachable(host)}:{chosen}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", host, "--port", str(chosen), "--workers", "1"]
    # As variables: on the command line every user of the machine could read a database's password.
    environment = {
        "MLFLOW_BACKEND_STORE_URI": settings.mlflow_tracking_uri,
        "MLFLOW_ARTIFACTS_DESTINATION": str(settings.finetune_home / "mlflow-artifacts"),
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    yield Service("MLflow", command, address, f"{address}/health", logs / "mlflow.log", environment)


def _workspace(settings: Settings) -> Path:
    """The working folder's own workspace, else one that names the same location, for an installed package."""
    own = Path(WORKSPACE_NAME)
    if own.is_file():
        return own
    written = settings.dagster_home / WORKSPACE_NAME
    with disk_failures(written):
        written.parent.mkdir(parents=True, exist_ok=True)
        written.write_text(WORKSPACE, encoding="utf-8")
    return written


def _reachable(host: str) -> str:
    return "127.0.0.1" if host in ("0.0.0.0", "::") else host


@contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """A `kill` stops the children as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
