"""A launched command's result, log and end: nothing of it is left when the step is over."""

import os
import signal
import sys
import textwrap
import threading
import time
from pathlib import Path

import psutil
import pytest
from dagster import (
    AssetExecutionContext,
    DagsterExecutionInterruptedError,
    DagsterInstance,
    Failure,
    MaterializeResult,
    asset,
    materialize,
)

from finetune_platform.resources.local_launcher import LocalLauncher

REPORTING = """
import sys
from dagster_pipes import open_dagster_pipes
with open_dagster_pipes() as pipes:
"""


@pytest.fixture
def launch(tmp_path):
    """Runs a script's text in a step; returns what it reported, how the launch failed, and the run's log lines."""
    launched: list[dict] = []
    failed: list[BaseException] = []

    def run(script: str, grace_s: float = 10.0, **env: str):
        path = tmp_path / "script.py"
        path.write_text(textwrap.dedent(script))

        @asset
        def trained_adapter(context: AssetExecutionContext, launcher: LocalLauncher) -> MaterializeResult:
            try:
                launched.append(launcher.launch(context, [sys.executable, str(path)], env))
            except BaseException as error:
                failed.append(error)
                raise
            return MaterializeResult()

        with DagsterInstance.ephemeral() as instance:
            result = materialize(
                [trained_adapter],
                resources={"launcher": LocalLauncher(terminate_grace_s=grace_s)},
                instance=instance,
                raise_on_error=False,
            )
            lines = [entry.user_message for entry in instance.all_logs(result.run_id)]
        assert result.success == bool(launched)
        return (launched or [None])[0], (failed or [None])[0], lines

    return run


def test_the_result_and_the_log_lines_arrive(launch):
    script = (
        REPORTING
        + "    pipes.log.info('step 1 of 2')\n    pipes.report_custom_message({'training_run_id': sys.argv[1]})"
    )
    result, failure, lines = launch(script)
    assert result == {"training_run_id": "--exit-with-parent"} and failure is None
    assert "step 1 of 2" in lines


def test_the_environment_is_added_to(launch):
    script = (
        REPORTING
        + "    import os; pipes.report_custom_message({'training_run_id': os.environ['LAKE_URL'] + os.environ['PATH']})"
    )
    assert launch(script, LAKE_URL="s3://b")[0] == {"training_run_id": "s3://b" + os.environ["PATH"]}


@pytest.mark.parametrize(
    ("end", "said", "retries"),
    [
        ("    pass", "reported no result", False),
        ("    sys.exit(75)", "saved a checkpoint", True),
        ("    sys.exit(3)", "ended with code 3", False),
        ("    import os; os.kill(os.getpid(), 9)", "killed by SIGKILL (out of memory?)", True),
        ("    pipes.report_custom_message({'error': {'type': 'BadInput', 'problem': 'a.jsonl:3: no', 'mend': 'x', "
         "'transient': False}}); sys.exit(2)", "a.jsonl:3: no\n  mend: x", False),
        ("    pipes.report_custom_message({'error': {'type': 'Unreachable', 'problem': 'MLflow: away', 'mend': 'x', "
         "'transient': True}}); sys.exit(1)", "MLflow: away\n  mend: x", True),
    ],
)  # fmt: skip
def test_every_other_end_is_a_failure_that_says_whether_to_retry(launch, end, said, retries):
    result, failure, _ = launch(REPORTING + end)
    assert result is None
    assert said in failure.description
    assert failure.allow_retries is retries


FAMILY = """
import os, signal, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"],
    stdout=subprocess.PIPE)
child.stdout.readline()
{deaf}
open(os.environ["PIDS"] + ".part", "w").write(f"{{os.getpid()}} {{child.pid}}")
os.rename(os.environ["PIDS"] + ".part", os.environ["PIDS"])
{then}
"""


def wait_until(condition, timeout_s=20.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


@pytest.mark.parametrize("deaf", ["", "signal.signal(signal.SIGTERM, signal.SIG_IGN)"])
def test_a_cancelled_step_leaves_no_process_of_the_group(launch, tmp_path, deaf):
    pids = tmp_path / "pids"

    def cancel():
        wait_until(pids.exists)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=cancel).start()
    began = time.monotonic()
    _, failure, _ = launch(FAMILY.format(deaf=deaf, then="time.sleep(600)"), grace_s=0.5, PIDS=str(pids))
    assert isinstance(failure, DagsterExecutionInterruptedError)
    assert time.monotonic() - began < 20
    family = [int(pid) for pid in pids.read_text().split()]
    wait_until(lambda: not any(alive(pid) for pid in family))


def test_a_child_that_outlives_the_trainer_ends_too(launch, tmp_path):
    pids = tmp_path / "pids"
    _, failure, _ = launch(FAMILY.format(deaf="", then="sys.exit(3)"), PIDS=str(pids))
    assert "ended with code 3" in failure.description
    wait_until(lambda: not any(alive(int(pid)) for pid in Path(pids).read_text().split()))


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_a_missing_program_is_a_failure_of_the_step_not_a_hang():
    @asset
    def trained_adapter(context: AssetExecutionContext, launcher: LocalLauncher) -> None:
        launcher.launch(context, ["/no/such/program"], {})

    with pytest.raises((FileNotFoundError, Failure)):
        materialize([trained_adapter], resources={"launcher": LocalLauncher()})
