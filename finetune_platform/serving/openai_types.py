"""What a caller may send, in OpenAI's names: checked before anything is spent on it.

Fields that are not named here pass through to the engine, which says what it does not support. Answers are built in
`wire.py`.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

MODEL_CHARS = 128
SESSION_CHARS = 256


class TextPart(BaseModel):
    """One part of a message. Other kinds than text have no place in a text model."""

    model_config = ConfigDict(extra="ignore")

    type: Literal["text"]
    text: str


class ChatMessage(BaseModel):
    model_config = ConfigDict(extra="allow")

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


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="ignore")

    include_usage: bool = False


class Sampling(BaseModel):
    """What both kinds of completion share."""

    model_config = ConfigDict(extra="allow")

    model: str = Field(min_length=1, max_length=MODEL_CHARS, description="The task's name.")
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(default=None, gt=0, le=1_000_000)
    temperature: float | None = Field(default=None, ge=0, le=2, allow_inf_nan=False)
    top_p: float | None = Field(default=None, gt=0, le=1, allow_inf_nan=False)
    stop: str | list[str] | None = None
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    user: str | None = Field(default=None, max_length=SESSION_CHARS)

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
        extra = self.model_extra or {}
        metadata = extra.get("metadata")
        named = metadata.get("session_id") if isinstance(metadata, dict) else None
        found = next((v for v in (named, extra.get("prompt_cache_key"), self.user) if isinstance(v, str) and v), None)
        return found[:SESSION_CHARS] if found else None


class ChatRequest(Sampling):
    """A chat-completion request."""

    messages: list[ChatMessage] = Field(min_length=1, max_length=2048)
    max_completion_tokens: int | None = Field(default=None, gt=0, le=1_000_000)


class CompletionRequest(Sampling):
    """A request for a plain completion: each prompt is one user message to the task."""

    prompt: str | list[str]

    @field_validator("prompt")
    @classmethod
    def some_prompts(cls, prompt: str | list[str]) -> str | list[str]:
        if isinstance(prompt, list) and not 1 <= len(prompt) <= 64:
            raise ValueError("one to 64 prompts")
        return prompt

    @property
    def prompts(self) -> list[str]:
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt


class FeedbackRequest(BaseModel):
    """What a caller says of one answer; at least one of rating, correction and accepted."""

    model_config = ConfigDict(extra="forbid")

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
