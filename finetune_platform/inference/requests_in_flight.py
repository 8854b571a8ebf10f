"""A request on its way through the scheduler, and what is told of it.

When it is computed is decided in `continuous.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from finetune_platform.inference.answer_text import AnswerText
from finetune_platform.inference.chat import EngineError
from finetune_platform.inference.sampling import Draw, Sampling


class Piece(NamedTuple):
    """Text that is ready to be shown."""

    text: str


class Ended(NamedTuple):
    """The answer is whole.

    Attributes:
        tokens: All of them, an end token included.
        text: What no `Piece` held yet; None: neither pieces nor stop strings were asked for, decode `tokens`.
        reason: Why it ended.
        cached_tokens: Prompt tokens that were not computed again.
    """

    tokens: list[int]
    text: str | None
    reason: Literal["stop", "length"]
    cached_tokens: int


Event = Piece | Ended | EngineError


@dataclass(eq=False)
class Row:
    """A request in flight.

    Attributes:
        prompt: Token ids.
        adapter: None for the base model.
        sampling: How its answer is chosen.
        streams: Whether pieces are wanted.
        tell: Called on the scheduler's thread with pieces and, at last, with the end or an error.
    """

    prompt: list[int]
    adapter: str | None
    sampling: Sampling
    streams: bool
    tell: Callable[[Event], None]
    cancelled: bool = False
    slot: int = -1
    computed: int = 0
    cached: int = 0
    answer: list[int] = field(default_factory=list)
    text: AnswerText | None = None
    draw: Draw | None = None

    @property
    def unread(self) -> int:
        return len(self.prompt) - self.computed

    def next_tokens(self, most: int) -> list[int]:
        """What the model has not seen yet of prompt and answer, at most `most` tokens."""
        if self.unread > 0:
            return self.prompt[self.computed : self.computed + most]
        return self.answer[-1:]
