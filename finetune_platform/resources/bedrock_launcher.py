"""Has Amazon Bedrock customize one of its models with the dataset's rows.

What comes of it is a custom model in the account. What is alike at such places is in `hosted_training.py`, the rows as
the provider takes them in `training/hosted_rows.py`.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

from dagster import AssetExecutionContext, ConfigurableResource

from finetune_platform.errors import BadInput
from finetune_platform.manifests_training import HostedModel
from finetune_platform.progress import Report
from finetune_platform.resources.aws import aws_client, aws_failures, error_code
from finetune_platform.resources.hosted_training import train_hosted
from finetune_platform.resources.remote_job import Ended
from finetune_platform.resources.training_job import TrainingJob
from finetune_platform.rows import Split
from finetune_platform.task_launcher import Bedrock
from finetune_platform.training.hosted import HostedResult, HostedStep
from finetune_platform.training.hosted_rows import bedrock_lines
from finetune_platform.training.rows import read_split

PLACE = "bedrock"


class BedrockLauncher(ConfigurableResource["BedrockLauncher"]):
    """Launches training on Bedrock.

    Attributes:
        poll_s: Seconds between two looks at the job.
        stop_grace_s: Seconds to wait for its end when a run is cancelled.
    """

    poll_s: float = 30.0
    stop_grace_s: float = 60.0

    def train(self, context: AssetExecutionContext, job: TrainingJob) -> str:
        """Trains, and returns the training run's id; see `train_hosted`."""
        options = job.task.launcher.bedrock
        assert options is not None, "the location does not load without it"
        if not job.lake.url.startswith("s3://"):
            raise BadInput(f"LAKE_URL: {job.lake.url} is no S3 bucket", "Bedrock reads and writes S3 only")
        return train_hosted(
            context,
            job,
            BedrockJobs(aws_client("bedrock"), options, job, context.log.info),
            options.model,
            options.model_dump(include={"model", "data_format", "hyperparameters"}),
            attempts=options.attempts,
            poll_s=self.poll_s,
            stop_grace_s=self.stop_grace_s,
        )


class BedrockJobs:
    """Model customization jobs of one account and region; a job's name is its token and its model's name.

    Args:
        client: boto3's.
        options: Of the task.
        job: What is trained.
        report: Told when a job enters another phase.
    """

    place = PLACE

    def __init__(self, client: Any, options: Bedrock, job: TrainingJob, report: Report) -> None:
        self._client, self._options, self._job, self._report = client, options, job, report
        self._phases: dict[str, str] = {}
        self.max_hours: float | None = options.max_hours

    def find(self, name: str) -> str | None:
        from botocore.exceptions import ClientError

        with aws_failures(PLACE):
            try:
                self._client.get_model_customization_job(jobIdentifier=name)
            except ClientError as error:
                if error_code(error) in ("ResourceNotFoundException", "ValidationException"):
                    return None
                raise
        return name

    def submit(self, name: str, environment: Mapping[str, str]) -> str:
        request: dict[str, Any] = {
            "jobName": name,
            "customModelName": name,
            "clientRequestToken": name,
            "roleArn": self._options.role,
            "baseModelIdentifier": self._options.model,
            "customizationType": "FINE_TUNING",
            "trainingDataConfig": {"s3Uri": self._data("train")},
            "outputDataConfig": {"s3Uri": self._job.lake.url_of(f"{self._job.task.name}/training_jobs/{PLACE}")},
            "hyperParameters": self._options.hyperparameters,
        }
        validation = self._job.dataset.splits.get("validation")
        if validation is not None and validation.rows:
            request["validationDataConfig"] = {"validators": [{"s3Uri": self._data("validation")}]}
        with aws_failures(PLACE):
            self._client.create_model_customization_job(**request)
        return name

    def ended(self, job_id: str) -> Ended | None:
        job = self._look(job_id)
        self._tell_news(job)
        match job["status"]:
            case "Completed":
                return Ended(True, False, "Completed")
            case "Failed" | "Stopped":
                reason = job.get("failureMessage", "") if job["status"] == "Failed" else ""
                return Ended(False, "internal" in reason.lower(), reason or job["status"])
        return None

    def stop(self, job_id: str) -> None:
        if self._look(job_id)["status"] == "InProgress":
            with aws_failures(PLACE):
                self._client.stop_model_customization_job(jobIdentifier=job_id)

    def page(self, job_id: str) -> str:
        region = self._client.meta.region_name
        return f"https://{region}.console.aws.amazon.com/bedrock/home?region={region}#/custom-models"

    def result(self, job_id: str) -> HostedResult:
        job = self._look(job_id)
        model = HostedModel(provider="bedrock", model=job["outputModelArn"], job=job["jobArn"])
        loss = job.get("trainingMetrics", {}).get("trainingLoss")
        measured = [m["validationLoss"] for m in job.get("validationMetrics", []) if "validationLoss" in m]
        # Bedrock tells the last losses alone; those of all steps are a file below `outputDataConfig`.
        steps = [] if loss is None else [HostedStep(0, loss, measured[0] if measured else None)]
        return HostedResult(model, steps, 0, (job["endTime"] - job["creationTime"]).total_seconds())

    def _look(self, job_id: str) -> dict[str, Any]:
        with aws_failures(PLACE):
            return dict(self._client.get_model_customization_job(jobIdentifier=job_id))

    def _tell_news(self, job: Mapping[str, Any]) -> None:
        details = {name.removesuffix("Details"): told["status"] for name, told in job.get("statusDetails", {}).items()}
        phases = {**details, "job": job["status"]}
        for phase, status in phases.items():
            if self._phases.get(phase) != status:
                self._report(f"bedrock: {phase}: {status}")
        self._phases = phases

    def _data(self, split: Split) -> str:
        """The address of a split as Bedrock reads it, written into the lake."""
        rows = read_split(self._job.lake, self._job.dataset, split)
        content = bedrock_lines(rows, self._job.task.system_prompt, self._options.data_format)
        digest = hashlib.sha256(content).hexdigest()[:12]
        path = f"{self._job.task.name}/training_jobs/data/{self._job.dataset.artifact_id}-{split}-{digest}.jsonl"
        self._job.lake.put(path, content)
        return self._job.lake.url_of(path)
