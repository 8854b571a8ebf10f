"""Preferences as the trainer takes them: two answers to the same tokens, or one answer and whether it is wanted.

What a loss makes of them belongs to the objectives; how a conversation becomes tokens, in `rows.py`.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from finetune_platform.errors import BadInput
from finetune_platform.rows import Example, Message
from finetune_platform.training.rows import TrainRow, tokenise

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Pair(NamedTuple):
    """A better and a worse answer; only the answers count in the loss.

    Attributes:
        chosen: The prompt and the better answer.
        rejected: The prompt and the worse one.
        prompt: How many tokens the prompt has; both rows begin with the same ones.
    """

    chosen: TrainRow
    rejected: TrainRow
    prompt: int


class Judged(NamedTuple):
    """One answer, its row supervised on that answer alone, and whether the model should give such answers."""

    row: TrainRow
    desirable: bool


def tokenise_pairs(
    examples: Sequence[Example], tokenizer: "PreTrainedTokenizerBase", system_prompt: str, max_length: int
) -> list[Pair]:
    """Both answers of every row of kind `preference`, in order.

    Args:
        examples: Rows with a `rejected` turn.
        tokenizer: A fast tokenizer with a chat template.
        system_prompt: What opens every conversation without a system message.
        max_length: Most tokens of prompt and answer, of either answer.

    Raises:
        BadInput: As `tokenise`; or the two answers change the tokens of the prompt before them.
        PermanentError: As `tokenise`.
    """
    # One call for both: a row that is too long is told with all others.
    both = [_answered(example, answer) for example in examples for answer in _answers(example)]
    rows = tokenise(both, tokenizer, system_prompt, max_length)
    return [_pair(chosen, rejected) for chosen, rejected in zip(rows[::2], rows[1::2], strict=True)]


def tokenise_judged(
    examples: Sequence[Example], tokenizer: "PreTrainedTokenizerBase", system_prompt: str, max_length: int
) -> list[Judged]:
    """Every row of kind `unpaired_preference` and its judgement, in order; else as `tokenise_pairs`."""
    answered = [_answered(example, example.messages[-1]) for example in examples]
    rows = tokenise(answered, tokenizer, system_prompt, max_length)
    return [Judged(row, bool(example.desirable)) for row, example in zip(rows, examples, strict=True)]


def _answers(example: Example) -> tuple[Message, Message]:
    assert example.rejected is not None  # curation makes no preference without it
    return example.messages[-1], example.rejected


def _answered(example: Example, answer: Message) -> Example:
    """The row with `answer` as its last turn, the only one that counts."""
    context = [turn.model_copy(update={"weight": 0.0}) if turn.role == "assistant" else turn for turn in example.prompt]
    return example.model_copy(update={"messages": [*context, answer.model_copy(update={"weight": None})]})


def _pair(chosen: TrainRow, rejected: TrainRow) -> Pair:
    prompt = prompt_tokens(chosen)
    if chosen.input_ids[:prompt] != rejected.input_ids[: prompt_tokens(rejected)]:
        raise BadInput(
            f"{chosen.place}: the tokens of the prompt are not the same before both answers, so the two could not be "
            "compared",
            "remove the white space that one of the answers begins with",
        )
    return Pair(chosen, rejected, prompt)


def prompt_tokens(row: TrainRow) -> int:
    """How many tokens stand before the first one that counts."""
    return next(i for i, weight in enumerate(row.weights) if weight > 0)
