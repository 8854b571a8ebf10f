"""What a caller may send, in OpenAI's names: checked before anything is spent on it.

A field that is not named here is refused: servers behind the gateway know more of them, and some say where to ask, what
to load or how often to answer. What is named goes to the engine as it was sent, which says what it does not support.
Answers are built in `wire.py`.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

MODEL_CHARS = 128
SESSION_CHARS = 256

TEXT: dict[str, Any] = {"type": "string"}
WORD = {**TEXT, "minLength": 1}
FEW_WORDS: list[Any] = [WORD, {"type": "array", "items": WORD, "maxItems": 4}, {"type": "null"}]
STREAM_OF_MANY: dict[str, Any] = {
    "required": ["stream", "prompt"],
    "properties": {"stream": {"const": True}, "prompt": {"type": "array", "minItems": 2}},
}
SOME_PROMPTS: list[Any] = [TEXT, {"type": "array", "items": TEXT, "minItems": 1, "maxItems": 64}]
"""In JSON Schema, what validators below say."""


class TextPart(BaseModel):
    """One part of a message. Other kinds than text have no place in a text model."""

    model_config = ConfigDict(extra="ignore", strict=True)

    type: Literal["text"]
    text: str


class ChatMessage(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None

    def plain(self) -> dict[str, Any]:
        """The message as engines take it: text whole, `developer` by its older name, set fields only."""
        fields = self.model_dump(exclude_unset=True)
        if isinstance(self.content, list):
            fields["content"] = "".join(part.text for part in self.content)
        if self.role == "developer":
            fields["role"] = "system"
        return fields


class Tool(BaseModel):
    """One that the caller runs. Other kinds are run by servers, which go where the caller says."""

    model_config = ConfigDict(extra="forbid", strict=True)

    type: Literal["function"]
    function: dict[str, Any]


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)

    include_usage: bool = False


class Sampling(BaseModel):
    """What both kinds of completion share."""

    # Strict: what is sent on is what was sent, so "5" must not be taken for 5 here.
    model_config = ConfigDict(extra="forbid", strict=True)

    model: str = Field(min_length=1, max_length=MODEL_CHARS, description="The task's name.")
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(default=None, gt=0, le=1_000_000)
    temperature: float | None = Field(default=None, ge=0, le=2, allow_inf_nan=False)
    top_p: float | None = Field(default=None, gt=0, le=1, allow_inf_nan=False)
    stop: str | list[str] | None = Field(default=None, json_schema_extra={"anyOf": FEW_WORDS})
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    user: str | None = Field(default=None, max_length=SESSION_CHARS)
    n: Literal[1] | None = None
    presence_penalty: float | None = Field(default=None, ge=-2, le=2, allow_inf_nan=False)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2, allow_inf_nan=False)
    repetition_penalty: float | None = Field(default=None, gt=0, le=10, allow_inf_nan=False)
    top_k: int | None = Field(default=None, ge=-1, lt=2**31)
    min_p: float | None = Field(default=None, ge=0, le=1, allow_inf_nan=False)
    logit_bias: dict[str, float] | None = None
    metadata: dict[str, str] | None = Field(default=None, description="`session_id` names the session.")
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = Field(default=None, description="Names the session where nothing else does.")
    prompt_cache_retention: str | None = None

    @field_validator("stop")
    @classmethod
    def few_stops(cls, stop: str | list[str] | None) -> str | list[str] | None:
        stops = [stop] if isinstance(stop, str) else stop or []
        if len(stops) > 4 or not all(stops):
            raise ValueError("at most four texts, none of them empty")
        return stop

    @property
    def wants_usage(self) -> bool:
        """Whether a streamed answer ends with its token counts."""
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def session(self) -> str | None:
        """What the caller says belongs together."""
        named = (self.metadata or {}).get("session_id") or self.prompt_cache_key or self.user
        return named[:SESSION_CHARS] if named else None


class ChatRequest(Sampling):
    """A chat-completion request."""

    messages: list[ChatMessage] = Field(min_length=1, max_length=2048)
    max_completion_tokens: int | None = Field(default=None, gt=0, le=1_000_000)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    tools: list[Tool] | None = Field(default=None, max_length=128)
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    response_format: dict[str, Any] | None = None
    structured_outputs: dict[str, Any] | None = None
    reasoning_effort: str | None = None
    verbosity: str | None = None
    modalities: list[Literal["text"]] | None = None
    prediction: dict[str, Any] | None = None


class CompletionRequest(Sampling):
    """A request for a plain completion: each prompt is one user message to the task."""

    model_config = ConfigDict(json_schema_extra={"not": STREAM_OF_MANY})

    prompt: str | list[str] = Field(json_schema_extra={"anyOf": SOME_PROMPTS})

    @field_validator("prompt")
    @classmethod
    def some_prompts(cls, prompt: str | list[str]) -> str | list[str]:
        if isinstance(prompt, list) and not 1 <= len(prompt) <= 64:
            raise ValueError("one to 64 prompts")
        return prompt

    @property
    def prompts(self) -> list[str]:
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt


SAYS_SOMETHING: list[Any] = [
    {"required": [name], "properties": {name: {"type": kind}}}
    for name, kind in (("rating", "string"), ("accepted", "boolean"), ("correction", "string"))
]
"""In JSON Schema: one of the fields is there and not null."""


class FeedbackRequest(BaseModel):
    """What a caller says of one answer; at least one of rating, correction and accepted."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"anyOf": SAYS_SOMETHING})

    interaction_id: str = Field(
        max_length=128, description="The answer's `id`, also in its x-finetune-interaction header."
    )
    rating: Literal["up", "down"] | None = None
    accepted: bool | None = Field(default=None, description="Whether the answer was used as it was.")
    correction: str | None = Field(default=None, max_length=200_000, description="What the answer should have been.")
    comment: str | None = Field(default=None, max_length=10_000)

    @property
    def positive(self) -> bool | None:
        """The word for or against the answer, None where it has neither."""
        if self.rating is not None:
            return self.rating == "up"
        if self.accepted is not None:
            return self.accepted
        return False if self.correction is not None else None
