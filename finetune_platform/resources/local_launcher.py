"""Runs a training command on this machine as a process group of its own, and reads what it reports.

The group ends with the step, whatever ends the step: a cancelled run must free the GPU. What is trained is decided
by the command; other places to launch get files of their own.
"""

import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from subprocess import PIPE, Popen
from typing import Any

from dagster import (
    AssetExecutionContext,
    ConfigurableResource,
    Failure,
    PipesTempFileContextInjector,
    PipesTempFileMessageReader,
    open_pipes_session,
)

from finetune_platform.errors import PermanentError, TransientError
from finetune_platform.resources.failures import failure
from finetune_platform.resources.training_job import TrainingJob

STOPPED_EXIT_CODE = 75
"""The trainer saved a checkpoint because somebody asked it to stop."""

RESULT_KEY = "training_run_id"
ERROR_KEY = "error"
POLL_S = 0.05


class LocalLauncher(ConfigurableResource["LocalLauncher"]):
    """Launches training on this machine.

    Attributes:
        terminate_grace_s: Seconds between SIGTERM and SIGKILL when a run is cancelled: enough for a checkpoint.
    """

    terminate_grace_s: float = 10.0

    def train(self, context: AssetExecutionContext, job: TrainingJob) -> str:
        """Trains, and returns the training run's id; see `launch`."""
        command = [sys.executable, "-m", "finetune_platform.training", *job.arguments(str(job.task.path))]
        env = {"LAKE_URL": job.lake.url, "MLFLOW_TRACKING_URI": job.tracking_uri, "FINETUNE_CACHE_DIR": job.cache_dir}
        return str(self.launch(context, command, env)[RESULT_KEY])

    def launch(self, context: AssetExecutionContext, command: Sequence[str], env: Mapping[str, str]) -> dict[str, Any]:
        """Runs `command --exit-with-parent` to its end; its log lines arrive in the Dagster log as they come.

        Args:
            context: Of the asset's step.
            command: A training command that reports through Dagster Pipes.
            env: Added to this process's environment.

        Returns:
            The message with which the trainer reported its result.

        Raises:
            Failure: It ended without a result. Retries make sense where it was stopped, killed, or met something
                transient, and are ruled out otherwise.
        """
        with open_pipes_session(
            context=context,
            context_injector=PipesTempFileContextInjector(),
            message_reader=PipesTempFileMessageReader(),
        ) as session:
            process = Popen(
                [*command, "--exit-with-parent"],
                env={**os.environ, **env, **session.get_bootstrap_env_vars()},
                # Held open, never written: the trainer ends when this process does, even by SIGKILL.
                stdin=PIPE,
                start_new_session=True,
            )
            try:
                # Without reaping: until `_end_group` is done the process keeps its id, so no other group can have it.
                os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
            finally:
                self._end_group(process, context)
        messages = [m for m in session.get_custom_messages() if isinstance(m, dict)]
        return _result(process.returncode, messages)

    def _end_group(self, process: Popen[bytes], context: AssetExecutionContext) -> None:
        """SIGTERM to the whole group, SIGKILL to what is left of it, and the process reaped."""
        try:
            if not _has_exited(process.pid):
                context.log.info(f"stopping the trainer; it has {self.terminate_grace_s:g} s for a checkpoint")
                os.killpg(process.pid, signal.SIGTERM)
                deadline = time.monotonic() + self.terminate_grace_s
                while not _has_exited(process.pid) and time.monotonic() < deadline:
                    time.sleep(POLL_S)
        finally:
            # A second interrupt cuts the grace short, never this. Children that outlived the trainer end here too.
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if process.stdin is not None:
                process.stdin.close()


def _has_exited(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None


def _result(code: int, messages: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The trainer's result, or the failure that its exit code and messages tell."""
    for message in messages:
        if ERROR_KEY in message:
            told = message[ERROR_KEY]
            raise failure((TransientError if told["transient"] else PermanentError)(told["problem"], told["mend"]))
    if code == STOPPED_EXIT_CODE:
        raise Failure("the trainer was stopped and saved a checkpoint; materialize again to go on", allow_retries=True)
    if code < 0:
        name = signal.Signals(-code).name
        raise Failure(
            f"the trainer was killed by {name}{' (out of memory?)' if name == 'SIGKILL' else ''}; "
            "materialize again to go on from its last checkpoint",
            allow_retries=True,
        )
    if code != 0:
        raise Failure(f"the trainer ended with code {code}; its output is in the run's stderr", allow_retries=False)
    for message in messages:
        if RESULT_KEY in message:
            return message
    # A Pipes session without any message is still a success to Dagster.
    raise Failure(
        "the trainer ended well but reported no result; its output is in the run's stdout", allow_retries=False
    )
