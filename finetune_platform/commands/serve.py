"""`finetune serve`: the gateway in front of every task's model, in the foreground or behind a demo."""

import os
import signal
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from rich.text import Text

from finetune_platform.commands.installation import read_settings, some_tasks
from finetune_platform.commands.processes import Service, choose_port, stop, wait_until_ready
from finetune_platform.commands.terminal import console
from finetune_platform.errors import BadInput
from finetune_platform.serving.keys import list_keys
from finetune_platform.settings import Settings

PORT = 8000
READY_S = 180.0
STOP_S = 30.0


def serve(host: str, port: int | None) -> None:
    """Serves every task until Ctrl-C.

    Raises:
        BadInput: The port is taken, or there is no task.
    """
    place, tasks = read_settings(), some_tasks(None)
    chosen = choose_port(port, PORT, host, "--port")
    out = console()
    from finetune_platform.loop.loop_site import loop_site
    from finetune_platform.review.review_site import review_site
    from finetune_platform.serving.server import build_gateway
    from finetune_platform.serving.server import serve as run

    gateway = build_gateway(place, tasks, lambda line: out.print(Text(line, "dim")))
    address = f"http://{host}:{chosen}"
    out.print(Text(f"gateway  {address}/v1", "bold"))
    out.print(Text(f"operator {address}/operator", "bold"))
    out.print(Text(f"review   {address}/review", "bold"))
    out.print(Text(f"loop     {address}/loop", "bold"))
    for task in tasks:
        out.print(f"  model {task.name}", highlight=False)
    if not list_keys(gateway.database):
        out.print(Text("no key yet: finetune key create my_app --task " + tasks[0].name, "yellow"))
    out.print(Text("Ctrl-C stops it", "dim"))
    run(gateway, host, chosen, [review_site(gateway), loop_site(gateway, place)])


def serve_in_background(host: str = "127.0.0.1") -> str:
    """The address of a gateway of this installation that outlives this command; one that runs is found again.

    Raises:
        PermanentError: It does not start; with the end of its log.
    """
    place = read_settings()
    if (running := running_address(place)) is not None:
        return running
    port = choose_port(None, PORT, host, "--port")
    address = f"http://{host}:{port}"
    command = [sys.executable, "-m", "finetune_platform.cli", "serve", "--host", host, "--port", str(port)]
    service = Service("gateway", command, address, f"{address}/readyz", place.finetune_home / "logs" / "gateway.log")
    service.start()
    try:
        wait_until_ready([service], READY_S, lambda ready: None)
    except BaseException:
        stop([service])
        raise
    assert service.process is not None  # started above
    _note(place).write_text(f"{service.process.pid} {address}\n", encoding="utf-8")
    return address


def stop_background() -> None:
    """Stops the gateway that `serve_in_background` started.

    Raises:
        BadInput: None runs.
    """
    place = read_settings()
    if running_address(place) is None:
        raise BadInput("no gateway was started in the background, or it has ended", "nothing to stop")
    pid = int(_note(place).read_text(encoding="utf-8").split()[0])
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_S
    while running_address(place) is not None and time.monotonic() < deadline:
        time.sleep(0.2)
    _note(place).unlink(missing_ok=True)
    console().print("the gateway has stopped")


def gateway_address(place: Settings) -> str:
    """Where people open this installation's gateway, in public or in the background; "" where none is known."""
    return place.gateway_url or running_address(place) or ""


def running_address(place: Settings) -> str | None:
    """Where the background gateway answers; None where none does."""
    if not _note(place).is_file():
        return None
    _, address = _note(place).read_text(encoding="utf-8").split()
    try:
        with urllib.request.urlopen(f"{address}/healthz", timeout=2) as answer:
            return address if answer.status == 200 else None
    except (urllib.error.URLError, OSError):
        return None


def _note(place: Settings) -> Path:
    return place.finetune_home / "gateway"
