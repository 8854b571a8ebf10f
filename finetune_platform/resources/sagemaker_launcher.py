"""Runs our trainer as an Amazon SageMaker training job, on managed spot machines where the task says so.

Checkpoints go to the lake as everywhere, so SageMaker's own copying of them is not used: a job that lost its spot
machine starts again on the next one and goes on from the newest. What is alike at all such places is in
`remote_trainer.py`.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from dagster import AssetExecutionContext, ConfigurableResource

from finetune_platform.errors import BadInput
from finetune_platform.resources.aws import aws_client, aws_failures, error_code
from finetune_platform.resources.remote_job import Ended, goes_on_after
from finetune_platform.resources.remote_trainer import train_there
from finetune_platform.resources.training_job import TrainingJob
from finetune_platform.task_launcher import SageMaker

PLACE = "sagemaker"
LOST = ("CapacityError", "InternalServerError")
"""How a reason begins for which the same job may succeed later."""

EXIT_CODE = re.compile(r"exit code:? (\d+)", re.IGNORECASE)


class SageMakerLauncher(ConfigurableResource["SageMakerLauncher"]):
    """Launches training on SageMaker.

    Attributes:
        poll_s: Seconds between two looks at the job.
        stop_grace_s: Seconds to wait for its last checkpoint when a run is cancelled; SageMaker gives it 120.
    """

    poll_s: float = 10.0
    stop_grace_s: float = 150.0

    def train(self, context: AssetExecutionContext, job: TrainingJob) -> str:
        """Trains, and returns the training run's id; see `train_there`."""
        options = job.task.launcher.sagemaker
        assert options is not None, "the location does not load without it"
        if not job.lake.url.startswith("s3://"):
            raise BadInput(f"LAKE_URL: {job.lake.url} is no S3 bucket", "SageMaker reads and writes S3 only")
        client = aws_client("sagemaker")
        return train_there(
            context,
            job,
            lambda command: SageMakerJobs(client, options, job.lake.url_of(f"{job.task.name}/training_jobs"), command),
            PLACE,
            options.environment,
            attempts=options.attempts,
            poll_s=self.poll_s,
            stop_grace_s=self.stop_grace_s,
        )


class SageMakerJobs:
    """Training jobs of one account and region.

    Args:
        client: boto3's.
        options: Of the task.
        output: Where SageMaker puts what the container leaves in its model folder: nothing, with our trainer.
        command: What the container runs.
    """

    place = PLACE
    max_hours: float | None = None

    def __init__(self, client: Any, options: SageMaker, output: str, command: Sequence[str]) -> None:
        self._client, self._options = client, options
        self._output, self._command = output, list(command)

    def find(self, name: str) -> str | None:
        from botocore.exceptions import ClientError

        with aws_failures(PLACE):
            try:
                self._client.describe_training_job(TrainingJobName=name)
            except ClientError as error:
                # SageMaker has no code of its own for a job that does not exist.
                if error_code(error) in ("ValidationException", "ResourceNotFound"):
                    return None
                raise
        return name

    def submit(self, name: str, environment: Mapping[str, str]) -> str:
        from botocore.exceptions import ClientError

        with aws_failures(PLACE):
            try:
                self._client.create_training_job(**self._request(name, environment))
            except ClientError as error:
                # The name is the job: another process was faster with the same one.
                if error_code(error) != "ResourceInUse":
                    raise
        return name

    def ended(self, job_id: str) -> Ended | None:
        with aws_failures(PLACE):
            job = self._client.describe_training_job(TrainingJobName=job_id)
        status, secondary = job["TrainingJobStatus"], job.get("SecondaryStatus", "")
        if status in ("InProgress", "Stopping"):
            return None
        if status == "Completed":
            return Ended(True, False, secondary)
        reason = job.get("FailureReason") or secondary
        code = EXIT_CODE.search(reason)
        lost = reason.startswith(LOST)
        return Ended(False, lost or (code is not None and goes_on_after(int(code[1]))), reason)

    def stop(self, job_id: str) -> None:
        from botocore.exceptions import ClientError

        with aws_failures(PLACE):
            try:
                self._client.stop_training_job(TrainingJobName=job_id)
            except ClientError as error:
                if error_code(error) != "ValidationException":  # It has ended already.
                    raise

    def page(self, job_id: str) -> str:
        region = self._client.meta.region_name
        return f"https://{region}.console.aws.amazon.com/sagemaker/home?region={region}#/jobs/{job_id}"

    def _request(self, name: str, environment: Mapping[str, str]) -> dict[str, Any]:
        options = self._options
        limits = {"MaxRuntimeInSeconds": round(options.max_hours * 3600)}
        if options.spot:
            limits["MaxWaitTimeInSeconds"] = round(options.max_wait_hours * 3600)
        request: dict[str, Any] = {
            "TrainingJobName": name,
            "AlgorithmSpecification": {
                "TrainingImage": options.image,
                "TrainingInputMode": "File",
                "ContainerEntrypoint": self._command[:1],
                "ContainerArguments": self._command[1:],
            },
            "RoleArn": options.role,
            "OutputDataConfig": {"S3OutputPath": self._output},
            "ResourceConfig": {
                "InstanceType": options.instance_type,
                "InstanceCount": 1,
                "VolumeSizeInGB": options.volume_gb,
            },
            "StoppingCondition": limits,
            "EnableManagedSpotTraining": options.spot,
            "Environment": dict(environment),
        }
        if options.subnets:
            request["VpcConfig"] = {"Subnets": options.subnets, "SecurityGroupIds": options.security_groups}
        return request
