"""Sets aside rows that answer the same prompt differently.

Nothing here says which answer is right, so none of them is kept: an expert decides, from the rejected rows.
"""

import json
from typing import TYPE_CHECKING

from finetune_platform.curation.sifting import Sifted, sift
from finetune_platform.identity import ROW_ID_DIGITS, content_id

if TYPE_CHECKING:
    from daft import DataFrame

OTHERS_NAMED = 3


def drop_contradictions(rows: "DataFrame") -> Sifted:
    """Keeps rows whose prompt (with its tools) has one answer in the whole data.

    A difference in `weight` alone is no contradiction: it changes what is trained, not what is right.
    """
    import daft
    from daft import col
    from daft.functions import when

    text = daft.DataType.string()
    prompt_of = daft.func(_prompt, return_dtype=text, use_process=False)
    answer_of = daft.func(_answer, return_dtype=text, use_process=False)
    sentence = daft.func(_sentence, return_dtype=text, use_process=False)

    keys = {"prompt_key": prompt_of(col("messages"), col("tools")), "answer_key": answer_of(col("messages"))}
    keyed = rows.with_columns(keys).collect()
    answers = keyed.groupby("prompt_key").agg(col("answer_key").count_distinct().alias("answers"))
    disputed = (
        keyed.select("prompt_key", "position", "place")
        .join(answers.where(col("answers") > 1), on="prompt_key")
        .groupby("prompt_key", "answers")
        .agg(col("position").list_agg().alias("positions"), col("place").list_agg().alias("places"))
    )
    joined = keyed.join(disputed, on="prompt_key", how="left")
    several = col("answers") > 1
    judged = joined.with_columns(
        {
            "reason": when(several, "contradiction").otherwise(None),
            "detail": when(several, sentence(col("place"), col("positions"), col("places"))).otherwise(None),
        }
    )
    return sift(judged.exclude("prompt_key", "answer_key", "answers", "positions", "places"), "contradictions")


def _prompt(messages: str, tools: str | None) -> str:
    prompt = [{k: v for k, v in m.items() if k != "weight"} for m in json.loads(messages)[:-1]]
    return content_id("prompt", [prompt, tools], ROW_ID_DIGITS)


def _answer(messages: str) -> str:
    answer = {k: v for k, v in json.loads(messages)[-1].items() if k != "weight"}
    return content_id("answer", answer, ROW_ID_DIGITS)


def _sentence(place: str, positions: list[int] | None, places: list[str] | None) -> str | None:
    if positions is None or places is None:
        return None
    others = [other for _, other in sorted(zip(positions, places, strict=True)) if other != place]
    more = f" and {len(others) - OTHERS_NAMED} more" if len(others) > OTHERS_NAMED else ""
    return f"{place}: the same prompt has another answer at {', '.join(others[:OTHERS_NAMED])}{more}"
