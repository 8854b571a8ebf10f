"""The task file's section about where training runs: what each place needs. Running it there belongs in `resources/`.

One model a place, by the place's own words; the setting LAUNCHER or `place` picks one.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from finetune_platform.strict import Strict

Place = Literal["local", "sagemaker", "ecs", "ray", "openai", "bedrock"]

Environment = dict[Annotated[str, Field(pattern=r"^[A-Z_][A-Z0-9_]*$")], str]
"""Whoever may describe the job reads these: no secrets."""


class SageMaker(Strict):
    """An Amazon SageMaker training job.

    `image` has this package and its trainer. `spot` takes managed spot machines; waiting for them and training may
    together take `max_wait_hours`.
    """

    image: str
    role: str = Field(pattern=r"^arn:")
    instance_type: str
    volume_gb: int = Field(default=100, gt=0)
    spot: bool = False
    max_hours: float = Field(default=24.0, gt=0)
    max_wait_hours: float = Field(default=48.0, gt=0)
    subnets: list[str] = []
    security_groups: list[str] = []
    environment: Environment = {}
    attempts: int = Field(default=3, ge=1)

    @model_validator(mode="after")
    def waiting_includes_training(self) -> "SageMaker":
        if self.spot and self.max_wait_hours < self.max_hours:
            raise ValueError("max_wait_hours counts the training too: it cannot be less than max_hours")
        if bool(self.subnets) != bool(self.security_groups):
            raise ValueError("subnets and security_groups go together")
        return self


class Ecs(Strict):
    """A task on an Amazon ECS cluster.

    `container` is the one of the task definition in which the trainer runs. `capacity_provider` (`FARGATE_SPOT`, or a
    group of GPU machines) and `launch_type` exclude each other; without either the cluster's default is taken.
    """

    cluster: str
    task_definition: str
    container: str
    capacity_provider: str | None = None
    launch_type: Literal["FARGATE", "EC2", "EXTERNAL"] | None = None
    subnets: list[str] = []
    security_groups: list[str] = []
    assign_public_ip: bool = False
    max_hours: float = Field(default=24.0, gt=0)
    environment: Environment = {}
    attempts: int = Field(default=3, ge=1)

    @model_validator(mode="after")
    def one_way_to_place_it(self) -> "Ecs":
        if self.capacity_provider and self.launch_type:
            raise ValueError("a task has either capacity_provider or launch_type")
        return self


class Ray(Strict):
    """A job on a Ray cluster; `address` is its head's dashboard.

    One worker trains on one machine, one with `num_gpus` free GPUs, all of which it uses. Several workers train
    together on whichever machines have room, and each takes `num_cpus` and at most one GPU.
    """

    address: str = Field(pattern=r"^https?://[^\s/]+$")
    workers: int = Field(default=1, ge=1)
    num_cpus: float = Field(default=1.0, ge=0)
    num_gpus: float = Field(default=0.0, ge=0)
    max_hours: float = Field(default=24.0, gt=0)
    environment: Environment = {}
    attempts: int = Field(default=3, ge=1)

    @model_validator(mode="after")
    def a_worker_computes_on_one_device(self) -> "Ray":
        if self.workers > 1 and self.num_gpus not in (0, 1):
            raise ValueError("each of several workers takes one GPU or none: num_gpus is 1 or 0")
        if self.workers > 1 and not self.num_cpus + self.num_gpus:
            raise ValueError("each of several workers takes something of a machine: num_cpus or num_gpus")
        return self


class OpenAi(Strict):
    """A job of OpenAI's fine-tuning API, or of another server that has it; `api_version` is Azure's.

    `api_key` names a key in the setting UPSTREAM_API_KEYS. Numbers that are left out are the server's to choose.
    """

    model: str
    url: str = Field(default="https://api.openai.com/v1", pattern=r"^https?://[^\s?]+$")
    api_key: str | None = None
    api_version: str | None = None
    n_epochs: int | None = Field(default=None, ge=1)
    batch_size: int | None = Field(default=None, ge=1)
    learning_rate_multiplier: float | None = Field(default=None, gt=0)
    max_hours: float = Field(default=24.0, gt=0)
    attempts: int = Field(default=3, ge=1)


class Bedrock(Strict):
    """A model customization job of Amazon Bedrock.

    `role` may read and write the lake's bucket. `hyperparameters` are the model's own, as text. `data_format` is
    `conversation` (Nova, Llama, Claude) or `prompt_completion` (Titan).
    """

    model: str
    role: str = Field(pattern=r"^arn:")
    data_format: Literal["conversation", "prompt_completion"] = "conversation"
    hyperparameters: dict[str, str] = {}
    max_hours: float = Field(default=48.0, gt=0)
    attempts: int = Field(default=3, ge=1)


class Launcher(Strict):
    """Where this task's training runs, and what the places need to know.

    Without `place` the setting LAUNCHER decides, for all tasks that do not say.
    """

    place: Place | None = None
    sagemaker: SageMaker | None = None
    ecs: Ecs | None = None
    ray: Ray | None = None
    openai: OpenAi | None = None
    bedrock: Bedrock | None = None

    @model_validator(mode="after")
    def the_place_is_described(self) -> "Launcher":
        if missing := self.missing(self.place or "local"):
            raise ValueError(missing)
        return self

    def missing(self, place: Place) -> str | None:
        """What this section lacks for training at `place`, in words."""
        described = place == "local" or getattr(self, place) is not None
        return None if described else f"training runs at {place}, so launcher needs {place}: with what that place needs"

    def against_search(self, place: Place, minutes: float) -> str | None:
        """Why options cannot be searched for at `place` for so long, in words."""
        if place in ("openai", "bedrock"):
            return f"training.search: {place} trains by itself and makes no trials; leave it out, or train elsewhere"
        described = None if place == "local" else getattr(self, place)
        if described is not None and minutes >= described.max_hours * 60:
            return (
                f"training.search.minutes is {minutes:g}, and launcher.{place}.max_hours ends the job after "
                f"{described.max_hours * 60:g}; training comes on top, so raise it or search for less long"
            )
        return None
