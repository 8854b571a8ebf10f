"""Sets aside rows that are longer than the task allows, in tokens of its base model.

Cutting an answer would teach the model to stop in mid-sentence, so a long row is kept whole or not at all. A text has
no answer: training cuts it, and any length is kept.
"""

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from finetune_platform.curation.sifting import Sifted, sift
from finetune_platform.inference.base_models import conversation
from finetune_platform.progress import Report, Ticker
from finetune_platform.rows import Message

if TYPE_CHECKING:
    from daft import DataFrame

Counted = str | list[dict[str, Any]]
"""A text, which is counted as it is, or a chat, with the model's template."""

CountTokens = Callable[[list[Counted]], list[int]]
"""Tokens of each text or chat as the model sees it; they come in batches."""

BATCH_ROWS = 256


def drop_long(
    rows: "DataFrame", max_tokens: int, system_prompt: str, count_tokens: CountTokens, report: Report
) -> Sifted:
    """Keeps rows of at most `max_tokens`, and texts; kept rows carry their `tokens`.

    A preference has as many as the longer of its two conversations.

    Counting runs in this process, one batch after the other: a tokenizer is not safe to share between threads.

    Args:
        rows: Rows in curation.
        max_tokens: Of the whole chat, the task's system prompt included.
        system_prompt: What is trained and served before rows without a system message of their own.
        count_tokens: The base model's count.
        report: Hears progress.
    """
    import daft
    from daft import col
    from daft.functions import format, when

    counted = daft.from_arrow(_counted(rows, system_prompt, count_tokens, report))
    sentence = format("{}: {} tokens with the system prompt; curation.max_tokens is {}", "place", "tokens", max_tokens)
    long = (col("kind") != "text") & (col("tokens") > max_tokens)
    judged = counted.with_columns(
        {"reason": when(long, "too_long").otherwise(None), "detail": when(long, sentence).otherwise(None)}
    )
    return sift(judged, "length")


def _counted(rows: "DataFrame", system_prompt: str, count_tokens: CountTokens, report: Report) -> pa.Table:
    table = rows.to_arrow()
    stored = table.select(["messages", "rejected", "text"]).to_pylist()
    ticker = Ticker(report, "counting tokens", len(stored), "rows")
    tokens: list[int] = []
    for start in range(0, len(stored), BATCH_ROWS):
        batch = [_counted_of(row, system_prompt) for row in stored[start : start + BATCH_ROWS]]
        counts = iter(count_tokens([one for row in batch for one in row]))
        tokens.extend(max(next(counts) for _ in row) for row in batch)
        ticker.at(len(tokens))
    return table.append_column("tokens", pa.array(tokens, pa.int64()))


def _counted_of(row: dict[str, Any], system_prompt: str) -> list[Counted]:
    """The text, or every conversation that the row stands for."""
    if row["text"] is not None:
        return [row["text"]]
    messages = [Message.model_validate(m) for m in json.loads(row["messages"])]
    answers = [messages[-1:]]
    if row["rejected"] is not None:
        answers.append([Message.model_validate_json(row["rejected"])])
    return [conversation(system_prompt, [*messages[:-1], *answer]) for answer in answers]
