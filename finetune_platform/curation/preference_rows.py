"""Rows that say which answer is better: two answers to one prompt, or one answer and whether it is wanted.

The keys are TRL's. Which other keys a row may have belongs in `formats.py`, one message in `messages.py`.
"""

from typing import Any, NamedTuple

from finetune_platform.curation.messages import check_turns, turns_of
from finetune_platform.curation.rejections import RefusedRow, shown
from finetune_platform.rows import Message


class AnswerPair(NamedTuple):
    """The prompt with the better answer, and the worse one."""

    messages: list[Message]
    rejected: Message


class JudgedAnswer(NamedTuple):
    """The prompt with an answer, and whether it is wanted."""

    messages: list[Message]
    desirable: bool


def read_pair(value: dict[str, Any]) -> AnswerPair:
    """`prompt`, `chosen` and `rejected`: texts or lists of messages.

    `chosen` and `rejected` may be whole conversations that begin with the prompt; `prompt` is then not needed, and
    where it is there it must be how they begin. Both must be one conversation up to their last message, the answer.

    Raises:
        RefusedRow: With the first field that is wrong.
    """
    prompt = None if value.get("prompt") is None else _unweighted(turns_of(value["prompt"], "prompt", "user"))
    chosen, rejected = (_conversation(prompt, value[field], field) for field in ("chosen", "rejected"))
    if chosen[:-1] != rejected[:-1]:
        raise RefusedRow("different_prompts", _difference(chosen, rejected))
    if chosen[-1] == rejected[-1]:
        raise RefusedRow("equal_answers", "chosen and rejected are the same answer, so neither is better")
    return AnswerPair(chosen, rejected[-1])


def read_judged(value: dict[str, Any]) -> JudgedAnswer:
    """`prompt`, `completion` and `label`, which is true where the answer is wanted.

    Raises:
        RefusedRow: With the first field that is wrong.
    """
    prompt = turns_of(value["prompt"], "prompt", "user")
    completion = turns_of(value["completion"], "completion", "assistant")
    if len(completion) != 1:
        raise RefusedRow(
            "several_answers",
            f"completion has {len(completion)} messages; one answer is judged: write the earlier ones into prompt",
        )
    messages = _unweighted([*prompt, *completion])
    check_turns(messages, "the row")
    if not isinstance(value["label"], bool):
        raise RefusedRow("wrong_type", f"label is {shown(value['label'])}; it must be true (wanted) or false")
    return JudgedAnswer(messages, value["label"])


def _conversation(prompt: list[Message] | None, value: Any, field: str) -> list[Message]:
    """The prompt and the answer of `field`, whichever of the two ways it is written."""
    said = _unweighted(turns_of(value, field, "assistant"))
    if any(turn.role in ("user", "system") for turn in said):
        if prompt is not None and _spoken(said)[: len(_spoken(prompt))] != _spoken(prompt):
            raise RefusedRow("different_prompts", f"{field} is a whole conversation, and does not begin with prompt")
        check_turns(said, field)
        return said
    if prompt is None:
        raise RefusedRow(
            "missing_key",
            f'"prompt" is missing, and {field} has no user message: give prompt, or whole conversations as messages',
        )
    check_turns([*prompt, *said], f"prompt with {field}")
    return [*prompt, *said]


def _unweighted(messages: list[Message]) -> list[Message]:
    """Messages without `weight`: only the last answers count in a preference."""
    return [turn.model_copy(update={"weight": None}) for turn in messages]


def _spoken(messages: list[Message]) -> list[Message]:
    return [turn for turn in messages if turn.role != "system"]


def _difference(chosen: list[Message], rejected: list[Message]) -> str:
    at = next((i for i, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b), 0)
    return (
        f"chosen and rejected differ in message {at + 1} of {len(chosen)} and {len(rejected)}, the prompt's counted: "
        "only their last messages, the answers, may differ"
    )
