"""Runs our trainer as a job on a Ray cluster that exists, through the HTTP API of its head.

dagster-ray's Pipes client submits a new job in every step and stops it whenever the step is interrupted, so that
nothing finds a job again, and Ray's own client needs the whole of Ray, in the cluster's version, where Dagster runs;
the API it speaks needs neither. What is alike at all such places is in `remote_trainer.py`; what a job with several
workers does there in `training/ray_workers.py`.
"""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import requests
from dagster import AssetExecutionContext, ConfigurableResource

from finetune_platform.errors import PermanentError, Unreachable
from finetune_platform.resources.remote_job import Ended, goes_on_after
from finetune_platform.resources.remote_trainer import train_there
from finetune_platform.resources.training_job import TrainingJob
from finetune_platform.task_launcher import Ray

PLACE = "ray"
UNKNOWN = 404


class RayLauncher(ConfigurableResource["RayLauncher"]):
    """Launches training on a Ray cluster.

    Attributes:
        poll_s: Seconds between two looks at the job.
        stop_grace_s: Seconds to wait for its last checkpoint when a run is cancelled; the cluster's
            `RAY_JOB_STOP_WAIT_TIME_S` says how many Ray gives it.
    """

    poll_s: float = 5.0
    stop_grace_s: float = 60.0

    def train(self, context: AssetExecutionContext, job: TrainingJob) -> str:
        """Trains, and returns the training run's id; see `train_there`."""
        options = job.task.launcher.ray
        assert options is not None, "the location does not load without it"
        return train_there(
            context,
            job,
            lambda command: RayJobs(options, command),
            PLACE,
            options.environment,
            attempts=options.attempts,
            poll_s=self.poll_s,
            stop_grace_s=self.stop_grace_s,
        )


class RayJobs:
    """Jobs of one cluster; a job's name is its submission id.

    Args:
        options: Of the task.
        command: What the cluster runs.
    """

    place = PLACE

    def __init__(self, options: Ray, command: Sequence[str]) -> None:
        self._options, self._command = options, list(command)
        self._job_takes = {"entrypoint_num_cpus": options.num_cpus, "entrypoint_num_gpus": options.num_gpus}
        if options.workers > 1:
            # The job itself only watches its workers, and Ray lets what takes nothing run on the head.
            self._command, self._job_takes = [*command, "--on-ray"], {}
        self.max_hours: float | None = options.max_hours

    def find(self, name: str) -> str | None:
        return name if self._details(name) is not None else None

    def submit(self, name: str, environment: Mapping[str, str]) -> str:
        request: dict[str, Any] = {
            "entrypoint": shlex.join(self._command),
            "submission_id": name,
            "runtime_env": {"env_vars": dict(environment)},
            **self._job_takes,
        }
        answer = self._call("POST", "", json=request)
        # Ray answers a name that it has with an error that has no code of its own.
        if not answer.ok and self._details(name) is None:
            raise self._refused(answer)
        return name

    def ended(self, job_id: str) -> Ended | None:
        job = self._details(job_id)
        if job is None:
            return Ended(False, True, "the cluster has forgotten how: its head was started again")
        if job["status"] in ("PENDING", "RUNNING"):
            return None
        code, message = job.get("driver_exit_code"), job.get("message") or job["status"]
        if job["status"] == "FAILED":
            # Without a code the process was not seen to end: its node is gone. Negative codes are signals.
            lost = code is None or code < 0 or goes_on_after(code)
            return Ended(False, lost, f"{message.splitlines()[0]} (code {code})")
        return Ended(job["status"] == "SUCCEEDED", False, message)

    def stop(self, job_id: str) -> None:
        answer = self._call("POST", f"{job_id}/stop")
        if not answer.ok and answer.status_code != UNKNOWN:
            raise self._refused(answer)

    def page(self, job_id: str) -> str:
        return f"{self._options.address}/#/jobs/{job_id}"

    def _details(self, job_id: str) -> dict[str, Any] | None:
        answer = self._call("GET", job_id)
        if answer.status_code == UNKNOWN:
            return None
        if not answer.ok:
            raise self._refused(answer)
        return dict(answer.json())

    def _call(self, method: str, path: str, **content: Any) -> requests.Response:
        url = f"{self._options.address}/api/jobs/{path}"
        try:
            return requests.request(method, url, timeout=(5, 60), **content)
        except requests.RequestException as error:
            raise Unreachable(f"{url}: {error}", "look at launcher.ray.address and the network") from error

    def _refused(self, answer: requests.Response) -> PermanentError:
        last = answer.text.strip().splitlines()[-1:] or [str(answer.status_code)]
        return PermanentError(f"{self._options.address}: {last[0]} ({answer.status_code})", "correct launcher.ray")
