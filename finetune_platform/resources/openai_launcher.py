"""Has OpenAI's fine-tuning API train, or a server that has the same one, Azure's among them.

What comes of it is a model that the provider hosts. What is alike at such places is in `hosted_training.py`, the rows
as the provider takes them in `training/hosted.py`.
"""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import requests
from dagster import AssetExecutionContext, ConfigurableResource

from finetune_platform.errors import BadInput, PermanentError, Unreachable
from finetune_platform.manifests_training import HostedModel
from finetune_platform.progress import Report
from finetune_platform.resources.hosted_training import train_hosted
from finetune_platform.resources.remote_job import Ended
from finetune_platform.resources.training_job import TrainingJob
from finetune_platform.rows import Split
from finetune_platform.settings import settings
from finetune_platform.task_launcher import OpenAi
from finetune_platform.training.hosted import HostedResult, HostedStep
from finetune_platform.training.hosted_rows import openai_lines
from finetune_platform.training.rows import read_split

PLACE = "openai"
PAGE = 100
NUMBERS = ("n_epochs", "batch_size", "learning_rate_multiplier")
SERVERS_FAULT = ("server_error", "internal_error", "rate_limit_exceeded")
"""Codes of a failed job for which the same job may succeed later."""


class OpenAiLauncher(ConfigurableResource["OpenAiLauncher"]):
    """Launches training at OpenAI.

    Attributes:
        poll_s: Seconds between two looks at the job.
        stop_grace_s: Seconds to wait for its end when a run is cancelled.
    """

    poll_s: float = 15.0
    stop_grace_s: float = 60.0

    def train(self, context: AssetExecutionContext, job: TrainingJob) -> str:
        """Trains, and returns the training run's id; see `train_hosted`."""
        options = job.task.launcher.openai
        assert options is not None, "the location does not load without it"
        decides = options.model_dump(include={"model", "url", *NUMBERS}) | {"seed": job.task.training.stages[0].seed}
        return train_hosted(
            context,
            job,
            OpenAiJobs(OpenAiClient(options), options, job, context.log.info),
            options.model,
            decides,
            attempts=options.attempts,
            poll_s=self.poll_s,
            stop_grace_s=self.stop_grace_s,
        )


class OpenAiClient:
    """Calls of the API at one address.

    Args:
        options: Say where it is and which key opens it.

    Raises:
        BadInput: There is no such key.
    """

    def __init__(self, options: OpenAi) -> None:
        keys = settings().upstream_api_keys
        if options.api_key is not None and options.api_key not in keys:
            raise BadInput(
                f"launcher.openai.api_key: UPSTREAM_API_KEYS has no {options.api_key}",
                "add it there: a JSON object of names and keys",
            )
        key = keys[options.api_key] if options.api_key else ""
        self._url = options.url.rstrip("/")
        self._params = {"api-version": options.api_version} if options.api_version else {}
        self._headers = {"api-key": key} if options.api_version else {"Authorization": f"Bearer {key}"} if key else {}

    def call(self, method: str, path: str, *, query: Mapping[str, Any] | None = None, **content: Any) -> dict[str, Any]:
        """One request, answered as JSON.

        Raises:
            Unreachable: No answer, or the server's own trouble.
            PermanentError: It refuses the request; with its reason.
        """
        params = {**self._params, **(query or {})}
        try:
            answer = requests.request(
                method, f"{self._url}/{path}", params=params, headers=self._headers, timeout=(5, 120), **content
            )
            if answer.status_code >= 500 or answer.status_code == 429:
                raise Unreachable(f"{self._url}: it answers {answer.status_code}", "try again later")
            told = answer.json()
        except requests.RequestException as error:
            raise Unreachable(f"{self._url}: {error}", "look at launcher.openai.url and the network") from error
        if answer.status_code >= 400:
            reason = told.get("error", {}).get("message", answer.text)
            raise PermanentError(f"{self._url}: {reason} ({answer.status_code})", "correct launcher.openai or the rows")
        return dict(told)

    def pages(self, path: str, **query: Any) -> Iterator[dict[str, Any]]:
        """Every object of a list, newest first."""
        after: dict[str, str] = {}
        while True:
            page = self.call("GET", path, query={"limit": PAGE, **query, **after})
            yield from page["data"]
            if not page.get("has_more") or not page["data"]:
                return
            after = {"after": page["data"][-1]["id"]}


class OpenAiJobs:
    """Fine-tuning jobs of one account; a job's name is in its metadata and its model's suffix.

    Args:
        client: Of the API.
        options: Of the task.
        job: What is trained.
        report: Told of the events as they come.
    """

    place = PLACE

    def __init__(self, client: OpenAiClient, options: OpenAi, job: TrainingJob, report: Report) -> None:
        self._client, self._options, self._job, self._report = client, options, job, report
        self._told: set[str] = set()
        self.max_hours: float | None = options.max_hours

    def find(self, name: str) -> str | None:
        for job in self._client.pages("fine_tuning/jobs"):
            if (job.get("metadata") or {}).get("job") == name or job.get("suffix") == name:
                return str(job["id"])
        return None

    def submit(self, name: str, environment: Mapping[str, str]) -> str:
        numbers = {n: getattr(self._options, n) for n in NUMBERS if getattr(self._options, n) is not None}
        request: dict[str, Any] = {
            "model": self._options.model,
            "training_file": self._file("train"),
            "suffix": name,
            "seed": self._job.task.training.stages[0].seed,
        }
        validation = self._job.dataset.splits.get("validation")
        if validation is not None and validation.rows:
            request["validation_file"] = self._file("validation")
        if self._options.api_version:
            request["hyperparameters"] = numbers
        else:
            request |= {"metadata": {"job": name}, "method": _supervised(numbers)}
        return str(self._client.call("POST", "fine_tuning/jobs", json=request)["id"])

    def ended(self, job_id: str) -> Ended | None:
        job = self._client.call("GET", f"fine_tuning/jobs/{job_id}")
        self._tell_news(job_id)
        match job["status"]:
            case "succeeded":
                return Ended(True, False, "succeeded")
            case "failed" | "cancelled":
                error = job.get("error") or {}
                reason = error.get("message") or job["status"]
                return Ended(False, error.get("code") in SERVERS_FAULT, reason)
        return None

    def stop(self, job_id: str) -> None:
        if self.ended(job_id) is None:
            self._client.call("POST", f"fine_tuning/jobs/{job_id}/cancel")

    def page(self, job_id: str) -> str:
        if "api.openai.com" in self._options.url:
            return f"https://platform.openai.com/finetune/{job_id}"
        return f"{self._options.url}/fine_tuning/jobs/{job_id}"

    def result(self, job_id: str) -> HostedResult:
        job = self._client.call("GET", f"fine_tuning/jobs/{job_id}")
        model = HostedModel(provider="openai", model=job["fine_tuned_model"], job=job_id)
        seconds = max(0, (job.get("finished_at") or job["created_at"]) - job["created_at"])
        return HostedResult(model, self._steps(job_id), job.get("trained_tokens") or 0, float(seconds))

    def _steps(self, job_id: str) -> list[HostedStep]:
        """From the events: the API has no other list of steps."""
        told = [e.get("data") or {} for e in self._client.pages(f"fine_tuning/jobs/{job_id}/events")]
        measured = {int(d["step"]): d for d in told if d.get("train_loss") is not None and d.get("step") is not None}
        return [
            HostedStep(step, measured[step]["train_loss"], _validation(measured[step])) for step in sorted(measured)
        ]

    def _tell_news(self, job_id: str) -> None:
        news = []
        for event in self._client.pages(f"fine_tuning/jobs/{job_id}/events"):
            if event["id"] in self._told:
                break
            news.append(event)
        for event in reversed(news):
            self._told.add(event["id"])
            self._report(f"openai: {event['message']}")

    def _file(self, split: Split) -> str:
        """The id of an uploaded split; one that a killed step uploaded is found by its name."""
        rows = read_split(self._job.lake, self._job.dataset, split)
        content = openai_lines(rows, self._job.task.system_prompt)
        name = f"{self._job.dataset.artifact_id}-{split}-{hashlib.sha256(content).hexdigest()[:12]}.jsonl"
        for file in self._client.pages("files", purpose="fine-tune"):
            if file["filename"] == name:
                return str(file["id"])
        uploaded = self._client.call("POST", "files", data={"purpose": "fine-tune"}, files={"file": (name, content)})
        return str(uploaded["id"])


def _supervised(numbers: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "supervised", "supervised": {"hyperparameters": dict(numbers)}}


def _validation(data: Mapping[str, Any]) -> float | None:
    loss = data.get("full_valid_loss", data.get("valid_loss"))
    return None if loss is None else float(loss)
