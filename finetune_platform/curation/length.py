"""Sets aside rows that are longer than the task allows, in tokens of its base model.

Cutting a row would teach the model to stop in mid-sentence, so a long row is kept whole or not at all.
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

CountTokens = Callable[[list[list[dict[str, Any]]]], list[int]]
"""Tokens of each chat as the model sees it, template included; the chats come in batches."""

BATCH_CHATS = 256


def drop_long(
    rows: "DataFrame", max_tokens: int, system_prompt: str, count_tokens: CountTokens, report: Report
) -> Sifted:
    """Keeps rows of at most `max_tokens`; kept rows carry their `tokens`.

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
    long = col("tokens") > max_tokens
    judged = counted.with_columns(
        {"reason": when(long, "too_long").otherwise(None), "detail": when(long, sentence).otherwise(None)}
    )
    return sift(judged, "length")


def _counted(rows: "DataFrame", system_prompt: str, count_tokens: CountTokens, report: Report) -> pa.Table:
    table = rows.to_arrow()
    texts = table["messages"].to_pylist()
    ticker = Ticker(report, "counting tokens", len(texts), "rows")
    tokens: list[int] = []
    for start in range(0, len(texts), BATCH_CHATS):
        batch = [_chat(text, system_prompt) for text in texts[start : start + BATCH_CHATS]]
        tokens.extend(count_tokens(batch))
        ticker.at(len(tokens))
    return table.append_column("tokens", pa.array(tokens, pa.int64()))


def _chat(messages: str, system_prompt: str) -> list[dict[str, Any]]:
    return conversation(system_prompt, [Message.model_validate(m) for m in json.loads(messages)])
