"""What the OpenAPI document says of answers: their schemas, and which errors an operation may end in.

Answers are built where they are given, as plain JSON and without these models; the tests hold the two together. What a
caller may send stands in `openai_types.py`.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from finetune_platform.serving.plan import Arm, Plan
from finetune_platform.serving.rollout_progress import State
from finetune_platform.task_serving import Guardrail

Answers = dict[int | str, dict[str, Any]]

MEANINGS: dict[int, str] = {
    400: "The request is wrong; `param` names the field.",
    401: "No key, or one that is not known, expired or revoked.",
    403: "The key may not do this.",
    404: "No such model, task, action or interaction for this key.",
    408: "The body took too long to arrive.",
    409: "Not possible in the present state.",
    413: "The body is too large.",
    429: "Too many requests; `Retry-After` says when to come back.",
    502: "The model's server failed.",
    503: "Nothing is ready to answer, or the database or the sign-in keys are away.",
    504: "The model took too long.",
}
SIGNED_IN = (401, 403, 503)
READ = (400, 408, 413)
ADMITTED = (429,)

RETRY_AFTER = {"description": "Seconds.", "required": True, "schema": {"type": "string", "pattern": "^[0-9]+$"}}
CHALLENGE = {"description": "Bearer.", "required": True, "schema": {"type": "string", "pattern": "^Bearer "}}
HEADERS = {
    401: {"WWW-Authenticate": CHALLENGE},
    403: {"WWW-Authenticate": CHALLENGE},
    429: {"Retry-After": RETRY_AFTER},
}


class Documented(BaseModel):
    """An object with these fields, all of them there, and no other."""

    model_config = ConfigDict(extra="forbid", json_schema_serialization_defaults_required=True)


class Open(BaseModel):
    """An object with these fields and whatever else the model's server adds."""

    model_config = ConfigDict(extra="allow")


class ErrorDetails(Documented):
    message: str
    type: str
    param: str | None
    code: str | None


class Error(Documented):
    """A failure, as OpenAI's clients read it."""

    error: ErrorDetails


def errors(*statuses: int) -> Answers:
    """Ways for an operation to fail, for a route's `responses`."""
    return {
        status: {"model": Error, "description": MEANINGS[status], "headers": HEADERS.get(status, {})}
        for status in sorted(statuses)
    }


def answers(model: type[BaseModel], description: str, headers: dict[str, str] | None = None) -> Answers:
    """What an operation answers if nothing fails, for a route's `responses`.

    Args:
        model: The body.
        description: In a sentence.
        headers: Texts by the names of headers that are always there.
    """
    shown = {n: {"description": d, "required": True, "schema": {"type": "string"}} for n, d in (headers or {}).items()}
    return {200: {"model": model, "description": description, "headers": shown}}


EVENT = {"type": "object", "required": ["data"], "properties": {"data": {"type": "string"}}}
EVENTS = {"content": {"text/event-stream": {"itemSchema": EVENT}}}
"""A streamed answer beside the whole one; `data` is a chunk in OpenAI's shape, at last `[DONE]`."""


class Usage(Open):
    prompt_tokens: int = Field(ge=0)
    completion_tokens: int = Field(ge=0)
    total_tokens: int = Field(ge=0)


class Message(Open):
    role: Literal["assistant"]
    content: str | None = None
    tool_calls: list[dict[str, Any]] | None = None


class ChatChoice(Open):
    index: int = Field(ge=0)
    message: Message
    finish_reason: str | None


class ChatCompletion(Open):
    id: str = Field(pattern="^in-")
    object: Literal["chat.completion"]
    created: int = Field(default=0, description="Not every server tells.")
    model: str
    choices: list[ChatChoice] = Field(min_length=1)
    usage: Usage


class TextChoice(Documented):
    index: int = Field(ge=0)
    text: str
    logprobs: None
    finish_reason: str | None


class TextCompletion(Documented):
    id: str = Field(pattern="^in-")
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoice] = Field(min_length=1)
    usage: Usage


class Model(Documented):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(Documented):
    object: Literal["list"]
    data: list[Model]


class Kept(Documented):
    """`counted`: whether it is the first word on this answer."""

    status: Literal["kept"]
    counted: bool


class Alive(Documented):
    status: Literal["ok"]


class Ready(Documented):
    """`adapters_not_ready` by task, `reasons` by adapter."""

    status: Literal["ready", "waiting"]
    adapters_not_ready: dict[str, list[str]]
    reasons: dict[str, str]
    routes_age_s: float


class Route(Plan):
    version: int = Field(ge=0)


class Difference(Documented):
    """The share of good answers, canary minus champion."""

    observed: float | None
    lower: float
    upper: float
    must_exceed: float


class GuardrailState(Documented):
    name: Guardrail
    e_value: float | None
    limit: float
    canary: float | None
    canary_n: int
    champion: float | None
    champion_n: int


class RolloutState(Documented):
    rollout_id: str
    adapter_id: str
    champion_id: str | None
    state: State
    place: str
    percent: int
    steps: list[int]
    message: str
    started_at: str
    updated_at: str
    hours_in_step: float
    hold_hours: float
    canary_requests: int
    min_n: int
    difference: Difference
    guardrails: list[GuardrailState]


class ArmTraffic(Documented):
    arm: Arm
    adapter: str
    requests: int
    error_rate: float | None
    invalid_format_rate: float | None
    refusal_rate: float | None
    negative_feedback_rate: float | None
    feedback: int
    latency_p50_ms: float | None
    latency_p95_ms: float | None
    latency_p99_ms: float | None
    prompt_tokens: int
    completion_tokens: int


class TaskState(Documented):
    """A task's route, its last rollout, and the traffic of the last hour."""

    task: str
    description: str
    route: Route
    rollout: RolloutState | None
    traffic: list[ArmTraffic]


class Tasks(Documented):
    tasks: list[TaskState]


class Span(Documented):
    adapter_id: str
    arm: str
    share: float = Field(ge=0, le=1)
    since: str
    until: str | None
    actor: str
    reason: str


class History(Documented):
    task: str
    history: list[Span]


class Trial(Documented):
    adapter: str
    share: float = Field(ge=0, le=1)
    champion: str | None
    since: str
    until: str | None


class Measure(Documented):
    """Side B minus champion: `observed`, and the interval from `lower` to `upper`."""

    name: str
    b: float | None
    b_n: int
    champion: float | None
    champion_n: int
    observed: float | None
    lower: float
    upper: float


class SideBySide(Documented):
    task: str
    window: Trial
    sides: dict[str, dict[str, Any]]
    measures: list[Measure]
    slow_above_ms: float | None
    alpha: float
    verdict: Literal["better", "worse", "open"]


class Done(Documented):
    """`written`: false while the database is away; a kill is in force here all the same."""

    task: str
    action: str
    written: bool
