"""Runs our trainer as a task on an Amazon ECS cluster, on spot capacity where the task's capacity provider is such.

dagster-aws has a Pipes client for ECS, but it always starts a task, waits for it alone and reads only CloudWatch: a
task that a killed step left could not be found again. What is alike at all such places is in `remote_trainer.py`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from dagster import AssetExecutionContext, ConfigurableResource

from finetune_platform.errors import TransientError
from finetune_platform.resources.aws import aws_client, aws_failures
from finetune_platform.resources.remote_job import Ended, goes_on_after
from finetune_platform.resources.remote_trainer import train_there
from finetune_platform.resources.training_job import TrainingJob
from finetune_platform.task_launcher import Ecs

PLACE = "ecs"
LOST = ("SpotInterruption", "TerminationNotice")
"""ECS took the machine away."""


class EcsLauncher(ConfigurableResource["EcsLauncher"]):
    """Launches training on ECS.

    Attributes:
        poll_s: Seconds between two looks at the task.
        stop_grace_s: Seconds to wait for its last checkpoint when a run is cancelled; the task definition's
            `stopTimeout` says how many ECS gives it.
    """

    poll_s: float = 10.0
    stop_grace_s: float = 150.0

    def train(self, context: AssetExecutionContext, job: TrainingJob) -> str:
        """Trains, and returns the training run's id; see `train_there`."""
        options = job.task.launcher.ecs
        assert options is not None, "the location does not load without it"
        client = aws_client("ecs")
        return train_there(
            context,
            job,
            lambda command: EcsJobs(client, options, command),
            PLACE,
            options.environment,
            attempts=options.attempts,
            poll_s=self.poll_s,
            stop_grace_s=self.stop_grace_s,
        )


class EcsJobs:
    """Tasks of one cluster; a job's name is the token and the `startedBy` of its task.

    Args:
        client: boto3's.
        options: Of the task file.
        command: What the container runs.
    """

    place = PLACE

    def __init__(self, client: Any, options: Ecs, command: Sequence[str]) -> None:
        self._client, self._options, self._command = client, options, list(command)
        self.max_hours: float | None = options.max_hours

    def find(self, name: str) -> str | None:
        # Without a status ECS lists running tasks only; stopped ones it remembers for an hour.
        for status in ("RUNNING", "STOPPED"):
            with aws_failures(PLACE):
                asked = {"cluster": self._options.cluster, "startedBy": name, "desiredStatus": status}
                if found := self._client.list_tasks(**asked)["taskArns"]:
                    return str(found[0])
        return None

    def submit(self, name: str, environment: Mapping[str, str]) -> str:
        with aws_failures(PLACE):
            answer = self._client.run_task(**self._request(name, environment))
        if not answer["tasks"]:
            reasons = ", ".join(failed.get("reason", "unknown") for failed in answer["failures"])
            raise TransientError(
                f"ecs: no machine of {self._options.cluster} takes the task: {reasons}", "add capacity"
            )
        return str(answer["tasks"][0]["taskArn"])

    def ended(self, job_id: str) -> Ended | None:
        with aws_failures(PLACE):
            found = self._client.describe_tasks(cluster=self._options.cluster, tasks=[job_id])["tasks"]
        if not found:
            return Ended(False, True, "ECS has forgotten how: it remembers a stopped task for an hour")
        (task,) = found
        if task["lastStatus"] != "STOPPED":
            return None
        code, reason = self._exit_code(task), task.get("stoppedReason", "")
        if task.get("stopCode") in LOST:
            return Ended(False, True, f"{task['stopCode']}: {reason}")
        if code is None:
            return Ended(False, False, reason)
        return Ended(code == 0, goes_on_after(code), f"its container ended with code {code} ({reason})")

    def stop(self, job_id: str) -> None:
        with aws_failures(PLACE):
            self._client.stop_task(cluster=self._options.cluster, task=job_id, reason="the Dagster run was cancelled")

    def page(self, job_id: str) -> str:
        region, cluster = self._client.meta.region_name, self._options.cluster.rpartition("/")[2]
        where = f"{cluster}/tasks/{job_id.rpartition('/')[2]}"
        return f"https://{region}.console.aws.amazon.com/ecs/v2/clusters/{where}"

    def _exit_code(self, task: Mapping[str, Any]) -> int | None:
        codes = [c.get("exitCode") for c in task["containers"] if c["name"] == self._options.container]
        return codes[0] if codes else None

    def _request(self, name: str, environment: Mapping[str, str]) -> dict[str, Any]:
        options = self._options
        variables = [{"name": key, "value": value} for key, value in environment.items()]
        container = {"name": options.container, "command": self._command, "environment": variables}
        request: dict[str, Any] = {
            "cluster": options.cluster,
            "taskDefinition": options.task_definition,
            "count": 1,
            "clientToken": name,
            "startedBy": name,
            "overrides": {"containerOverrides": [container]},
        }
        if options.capacity_provider:
            request["capacityProviderStrategy"] = [{"capacityProvider": options.capacity_provider}]
        if options.launch_type:
            request["launchType"] = options.launch_type
        if options.subnets:
            public = "ENABLED" if options.assign_public_ip else "DISABLED"
            network = {"subnets": options.subnets, "securityGroups": options.security_groups, "assignPublicIp": public}
            request["networkConfiguration"] = {"awsvpcConfiguration": network}
        return request
