"""The task file's sections about production: which engine answers, what is logged, how a new adapter earns traffic.

They are parts of `Task` in `task.py`; acting on them belongs in `serving/`.
"""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from finetune_platform.strict import Strict, checked_regex

EngineKind = Literal["in_process", "vllm", "openai"]
Guardrail = Literal["errors", "latency", "valid_format", "refusals", "feedback"]
Percent = Annotated[int, Field(ge=1, le=100)]


class EngineRef(Strict):
    """What answers.

    `in_process` runs the model in the gateway; `vllm` are vLLM servers that load adapters at run time (each of `urls`
    is a replica); `openai` is any OpenAI-compatible server (Bedrock, Azure, OpenAI, another vLLM), which serves
    `model` as it is. `api_key` names an entry of UPSTREAM_API_KEYS.
    """

    kind: EngineKind = "in_process"
    urls: list[str] = []
    model: str | None = None
    api_key: str | None = None

    @model_validator(mode="after")
    def servers_have_addresses(self) -> "EngineRef":
        if (self.kind == "in_process") != (not self.urls):
            raise ValueError("urls: are the servers of kind vllm or openai; kind in_process has none")
        if self.kind == "openai" and self.model is None:
            raise ValueError("kind openai needs model:, the name that the server knows it by")
        for url in self.urls:
            if not url.startswith(("http://", "https://")):
                raise ValueError(f'url "{url}" must start with http:// or https://')
        return self


class ResponseCache(Strict):
    """Answers that a gateway keeps for exact repeats: at most so many, so large together, and for so long."""

    max_entries: int = Field(default=1000, gt=0)
    max_mb: float = Field(default=16.0, gt=0)
    ttl_s: float = Field(default=3600.0, gt=0)


class Serving(Strict):
    """How the gateway answers for a task, and what it keeps of it.

    `engine` runs adapters; `base` answers as the fallback with `baseline_prompt` (default: `engine` without an
    adapter). `fallback` is the order in which others answer when the champion's engine fails. `max_tokens` is what a
    request gets that names none, and the most it may name (default: `evaluation.max_new_tokens`). An answer that
    `refusal_pattern` finds something in counts as a refusal. A caller's own system message gives way to the prompt that
    the adapter was trained with, unless `replace_system_prompt` is false. `response_cache` keeps greedy answers for
    exact repeats (`response_cache: {}` for its defaults); without it every request is answered anew.
    """

    engine: EngineRef = EngineRef()
    base: EngineRef | None = None
    fallback: list[Literal["previous_champion", "base"]] = ["previous_champion", "base"]
    max_tokens: int | None = Field(default=None, gt=0)
    timeout_s: float = Field(default=60.0, gt=0)
    log_share: float = Field(default=0.05, ge=0, le=1)
    retention_days: int = Field(default=90, gt=0)
    redact: bool = True
    refusal_pattern: str | None = None
    replace_system_prompt: bool = True
    response_cache: ResponseCache | None = None

    @field_validator("refusal_pattern")
    @classmethod
    def compiles(cls, pattern: str | None) -> str | None:
        return checked_regex(pattern)


class Rollout(Strict):
    """How a registered adapter becomes champion: the shares of traffic that it earns, and what takes it back.

    A step is promoted when it lasted `hold_hours`, the canary answered `min_n` requests in it, and the confidence
    sequence of canary minus champion lies above `-margin`; after `timeout_hours` without that it is held. It is rolled
    back when a guardrail's evidence reaches (number of guardrails) / `alpha`. `shadow_hours` above 0 lets the
    candidate first answer copies of requests that nobody is shown.
    """

    automatic: bool = True
    shadow_hours: float = Field(default=0.0, ge=0)
    steps: list[Percent] = Field(default=[5, 25, 50, 100], min_length=1)
    hold_hours: float = Field(default=48.0, ge=0)
    timeout_hours: float = Field(default=336.0, gt=0)
    min_n: int = Field(default=200, gt=0)
    margin: float = Field(default=0.05, gt=0, lt=1)
    alpha: float = Field(default=0.05, gt=0, lt=0.5)
    guardrails: list[Guardrail] = Field(
        default=["errors", "latency", "valid_format", "refusals", "feedback"], min_length=1
    )

    @model_validator(mode="after")
    def steps_rise(self) -> "Rollout":
        if sorted(set(self.steps)) != self.steps or self.steps[-1] != 100:
            raise ValueError("steps: rise to 100, as in [5, 25, 50, 100]")
        if len(set(self.guardrails)) != len(self.guardrails):
            raise ValueError("guardrails: each once")
        if self.timeout_hours <= self.hold_hours:
            raise ValueError("timeout_hours must be longer than hold_hours")
        return self
