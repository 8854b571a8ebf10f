"""Sets aside rows whose prompt, answer or text says nothing.

Rows without the fields for them were refused when they were read.
"""

import json
from typing import TYPE_CHECKING

from finetune_platform.curation.sifting import Sifted, sift

if TYPE_CHECKING:
    from daft import DataFrame


def drop_empty(rows: "DataFrame") -> Sifted:
    """Keeps rows with something to answer and something answered (text, or a tool call), and texts with a word."""
    import daft
    from daft import col
    from daft.functions import format, replace, when

    judge = daft.func(emptiness, return_dtype=daft.DataType.string(), use_process=False)
    judged = rows.with_column("reason", judge(col("messages"), col("rejected"), col("text")))
    part = replace(replace(col("reason"), "empty_", ""), "rejected", "rejected answer")
    sentence = format("{}: the {} is empty or only white space", col("place"), part)
    return sift(judged.with_column("detail", when(col("reason").not_null(), sentence).otherwise(None)), "empty")


def emptiness(messages: str, rejected: str | None, text: str | None) -> str | None:
    """`empty_answer`, `empty_rejected`, `empty_prompt` or `empty_text`; None for a row that says something everywhere.

    Args:
        messages: The row's messages as stored.
        rejected: Its rejected answer as stored, where its kind has one.
        text: Its text, where its kind has one.
    """
    if text is not None:
        return None if text.strip() else "empty_text"
    *prompt, answer = json.loads(messages)
    if not _says_something(answer):
        return "empty_answer"
    if rejected is not None and not _says_something(json.loads(rejected)):
        return "empty_rejected"
    if not any(_says_something(m) for m in prompt if m["role"] != "system"):
        return "empty_prompt"
    return None


def _says_something(message: dict[str, object]) -> bool:
    return bool(str(message.get("content") or "").strip() or message.get("tool_calls"))
