"""DAGSTER_HOME, ports, cron expressions, child processes: what the commands stand on."""

import os
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from finetune_platform.commands.cron import cron_problem
from finetune_platform.commands.dagster_home import CONFIG_NAME, prepare, shipped_config
from finetune_platform.commands.processes import Service, choose_port, raise_if_ended, stop, wait_until_ready
from finetune_platform.commands.up import planned_services
from finetune_platform.errors import BadInput, PermanentError, StorageFailed
from finetune_platform.settings import Settings


@pytest.fixture(autouse=True)
def keep_dagster_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """`prepare` sets the variable for good; monkeypatch takes it back."""
    monkeypatch.setenv("DAGSTER_HOME", "")
    monkeypatch.delenv("DAGSTER_HOME")


def test_dagster_home_holds_the_projects_configuration(settings_env: Settings) -> None:
    home = prepare(settings_env)
    assert home == settings_env.dagster_home and home.is_absolute()
    assert os.environ["DAGSTER_HOME"] == str(home)
    assert (home / CONFIG_NAME).read_bytes() == shipped_config().read_bytes()


def test_a_newer_configuration_replaces_the_older_but_never_an_edit(settings_env: Settings, tmp_path: Path) -> None:
    shipped = tmp_path / "shipped.yaml"
    shipped.write_text("a: 1\n")
    config = prepare(settings_env, shipped) / CONFIG_NAME
    shipped.write_text("a: 2\n")
    prepare(settings_env, shipped)
    assert config.read_text() == "a: 2\n"
    config.write_text("a: mine\n")
    for text in ("a: 3\n", "a: 4\n"):
        shipped.write_text(text)
        prepare(settings_env, shipped)
        assert config.read_text() == "a: mine\n"
    config.unlink()
    prepare(settings_env, shipped)
    assert config.read_text() == "a: 4\n"


def test_a_configuration_that_was_there_before_is_an_edit(settings_env: Settings) -> None:
    settings_env.dagster_home.mkdir(parents=True)
    config = settings_env.dagster_home / CONFIG_NAME
    config.write_text("mine: true\n")
    prepare(settings_env)
    assert config.read_text() == "mine: true\n"


def test_a_home_that_cannot_be_made(settings_env: Settings) -> None:
    settings_env.finetune_home.mkdir(parents=True)
    settings_env.dagster_home.write_text("a file")
    with pytest.raises(StorageFailed, match=str(settings_env.dagster_home)):
        prepare(settings_env)


@pytest.mark.parametrize(
    "cron", ["0 3 * * 1", "*/15 * * * *", "0 0 1,15 * *", "30 2-6/2 * jan-mar MON", "5 4 * * sun", "0 0 * * 7"]
)
def test_cron_expressions_that_can_be_kept(cron: str) -> None:
    assert cron_problem(cron) is None


@pytest.mark.parametrize(
    ("cron", "told"),
    [
        ("60 * * * *", 'minute "60" is not within 0-59'),
        ("0 3 0 * *", 'day of month "0" is not within 1-31'),
        ("0 3 * * mond", 'day of week "mond" is not within 0-7'),
        ("0 6-2 * * *", 'hour "6-2" runs backwards'),
        ("*/0 * * * *", 'minute "*/0" has a step of 0'),
        ("0 3 * *", "4 fields"),
        ("x y z a b", 'minute "x"'),
        ("1- * * * *", 'minute "1-"'),
    ],
)
def test_cron_expressions_that_cannot(cron: str, told: str) -> None:
    assert told in (cron_problem(cron) or "")


def test_a_taken_port_is_told_or_passed_over() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        with pytest.raises(BadInput, match=f"port {taken} on 127.0.0.1 is taken") as failure:
            choose_port(taken, 1, "127.0.0.1", "--port")
        assert "--port" in failure.value.mend
        assert choose_port(None, taken, "127.0.0.1", "--port") > taken
    assert choose_port(taken, 1, "127.0.0.1", "--port") == taken


SERVER = """
import http.server, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print("child", child.pid, flush=True)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), http.server.SimpleHTTPRequestHandler).serve_forever()
"""


def service(tmp_path: Path, code: str) -> Service:
    port = choose_port(None, 42000, "127.0.0.1", "--port")
    url = f"http://127.0.0.1:{port}"
    return Service("Server", [sys.executable, "-c", code, str(port)], url, url, tmp_path / "logs" / "server.log")


def test_stopping_ends_grandchildren_too(tmp_path: Path) -> None:
    server = service(tmp_path, SERVER)
    server.start()
    told: list[str] = []
    try:
        wait_until_ready([server], 20, lambda ready: told.append(ready.url))
        grandchild = int(server.log.read_text().split()[1])
        assert psutil.pid_exists(grandchild) and told == [server.url]
    finally:
        stop([server], timeout_s=5)
    deadline = time.monotonic() + 5
    while running(grandchild) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not running(grandchild)
    assert server.exit_code is not None


def running(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def deaf_server(tmp_path: Path) -> Service:
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    deaf = service(tmp_path, code)
    deaf.start()
    while not deaf.log.read_text():
        time.sleep(0.02)
    return deaf


def test_a_deaf_server_is_killed(tmp_path: Path) -> None:
    deaf = deaf_server(tmp_path)
    stop([deaf], timeout_s=0.5)
    assert deaf.exit_code == -signal.SIGKILL


def test_a_second_interrupt_leaves_no_server_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deaf = deaf_server(tmp_path)

    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(time, "sleep", interrupted)
        stop([deaf])
    assert deaf.exit_code == -signal.SIGKILL


def test_a_server_that_ends_is_told_with_the_end_of_its_log(tmp_path: Path) -> None:
    server = service(tmp_path, "print('line 1'); raise SystemExit('the disk melted')")
    server.start()
    with pytest.raises(PermanentError) as failure:
        wait_until_ready([server], 20, lambda ready: None)
    assert "Server ended with exit code 1" in failure.value.problem
    assert "the disk melted" in failure.value.problem and str(server.log) in failure.value.mend
    with pytest.raises(PermanentError):
        raise_if_ended([server])


def test_up_plans_dagster_and_mlflow_without_passwords_in_sight(
    settings_env: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    place = settings_env.model_copy(update={"mlflow_tracking_uri": "postgresql+psycopg://u:secret@db/mlflow"})
    dagster, mlflow = planned_services(place, None, None, "127.0.0.1")
    assert "secret" not in " ".join([*dagster.command, *mlflow.command])
    assert mlflow.environment["MLFLOW_BACKEND_STORE_URI"].endswith("u:secret@db/mlflow")
    workspace = Path(dagster.command[dagster.command.index("-w") + 1])
    assert "location_name: finetune_platform" in workspace.read_text()
    remote = settings_env.model_copy(update={"mlflow_tracking_uri": "https://mlflow.example.org"})
    assert [s.name for s in planned_services(remote, None, None, "127.0.0.1")] == ["Dagster"]


def test_help_answers_at_once() -> None:
    """Heavy imports stand inside the commands. Processor time, for a busy machine is not the command's fault."""
    command = [sys.executable, "-m", "finetune_platform.cli", "--help"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert "trace" in told
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.6


def test_a_failure_in_a_shell(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "finetune_platform.cli", "status", "--json"]
    here = {**os.environ, "TASKS_DIR": str(tmp_path / "none"), "FINETUNE_HOME": str(tmp_path / "home")}
    done = subprocess.run(command, capture_output=True, text=True, env=here, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "error: " in done.stderr and "mend: " in done.stderr and "Traceback" not in done.stderr
