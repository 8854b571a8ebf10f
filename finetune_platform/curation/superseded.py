"""Sets aside rows whose prompt an expert or a user has answered since: the label replaces them.

Without this step both would go as contradictions, and the expert's word with them.
"""

import json
from typing import TYPE_CHECKING

from finetune_platform.curation.sifting import Sifted, sift
from finetune_platform.identity import ROW_ID_DIGITS, content_id
from finetune_platform.rows import LABELS_PLACE

if TYPE_CHECKING:
    from daft import DataFrame


def drop_superseded(rows: "DataFrame") -> Sifted:
    """Keeps labels, and rows that no label replaces.

    A label replaces every row with the same turns before the answer, system prompts apart: logged requests have the
    caller's or none. A row with the label's own answer says the same and is replaced too. A preference that agrees
    with the label says more than it and stays: its better answer is the label's, or its unwanted one is not.
    """
    import daft
    from daft import col, lit
    from daft.functions import format, startswith, when

    key_of = daft.func(turns_key, return_dtype=daft.DataType.string(), use_process=False)
    agrees = daft.func(_agrees, return_dtype=daft.DataType.bool(), use_process=False)
    keyed = rows.with_columns(
        {"turns_key": key_of(col("messages"), col("tools")), "is_label": startswith(col("source_uri"), LABELS_PLACE)}
    ).collect()
    labels = (
        keyed.where(col("is_label"))
        .groupby("turns_key")
        .agg(col("place").min().alias("label_place"), col("answer").list_agg().alias("label_answers"))
    )
    joined = keyed.join(labels, on="turns_key", how="left")
    stays = agrees(col("kind"), col("answer"), col("desirable"), col("label_answers"))
    replaced = ~col("is_label") & col("label_place").not_null() & ~stays
    judged = joined.with_columns(
        {
            "reason": when(replaced, lit("superseded")).otherwise(None),
            "detail": when(replaced, format("{}: a label replaces it: {}", "place", "label_place")).otherwise(None),
        }
    )
    return sift(judged.exclude("turns_key", "is_label", "label_place", "label_answers"), "superseded")


def _agrees(kind: str, answer: str, desirable: bool | None, label_answers: list[str] | None) -> bool:
    """Whether a preference says of its answer what the labels of its turns say; a text has no turns and stays."""
    if kind == "sft":
        return False
    wanted = desirable is not False
    return kind == "text" or wanted == (answer.strip() in {label.strip() for label in label_answers or []})


def turns_key(messages: str, tools: str | None) -> str:
    """Hash of what was asked: every turn before the answer but system prompts, and the tools."""
    turns = [
        {key: value for key, value in message.items() if key != "weight"}
        for message in json.loads(messages)[:-1]
        if message["role"] != "system"
    ]
    return content_id("turns", [turns, tools], ROW_ID_DIGITS)
