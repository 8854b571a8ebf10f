"""Sets aside rows whose prompt or answer says nothing.

Rows without the fields for them were refused when they were read.
"""

import json
from typing import TYPE_CHECKING

from finetune_platform.curation.sifting import Sifted, sift

if TYPE_CHECKING:
    from daft import DataFrame


def drop_empty(rows: "DataFrame") -> Sifted:
    """Keeps rows with something to answer and something answered: text, or a tool call."""
    import daft
    from daft import col
    from daft.functions import format, when

    judge = daft.func(emptiness, return_dtype=daft.DataType.string(), use_process=False)
    judged = rows.with_column("reason", judge(col("messages")))
    part = when(col("reason") == "empty_answer", "answer").otherwise("prompt")
    sentence = format("{}: the {} is empty or only white space", col("place"), part)
    return sift(judged.with_column("detail", when(col("reason").not_null(), sentence).otherwise(None)), "empty")


def emptiness(messages: str) -> str | None:
    """`empty_answer`, `empty_prompt`, or None for a row that says something on both sides.

    Args:
        messages: The row's messages as stored.
    """
    *prompt, answer = json.loads(messages)
    if not _says_something(answer):
        return "empty_answer"
    if not any(_says_something(m) for m in prompt if m["role"] != "system"):
        return "empty_prompt"
    return None


def _says_something(message: dict[str, object]) -> bool:
    return bool(str(message.get("content") or "").strip() or message.get("tool_calls"))
