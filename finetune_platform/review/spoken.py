"""What a browser tells the server, checked before anything is done with it."""

from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from finetune_platform.labeling.answering import MOST_CHARS, Annotation
from finetune_platform.labeling.items import Decision

M = TypeVar("M", bound=BaseModel)


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(max_length=64)
    batch: str = Field(max_length=64)
    number: int


class Spoken(_Message):
    """What somebody says of the row before them; told again under the same `id` until it is answered."""

    decision: Decision
    answer: str = Field(max_length=2 * MOST_CHARS)
    reason: str = Field(max_length=2 * MOST_CHARS)
    rating: int | None
    seconds: float

    @property
    def annotation(self) -> Annotation:
        answer = self.answer if self.decision == "answer" else None
        return Annotation(self.decision, answer, self.reason, self.rating, self.seconds)


class Typed(_Message):
    """What stands in the answer's field now."""

    text: str = Field(max_length=2 * MOST_CHARS)


class Going(BaseModel):
    """Where somebody wants to go from the row before them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    way: Literal["earlier", "later"]


def heard(kind: type[M], message: Any) -> M | None:
    """A message; None for one that no page of ours sends."""
    try:
        return kind.model_validate(message)
    except ValidationError:
        return None
