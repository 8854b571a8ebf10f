"""Sets aside rows that contradict one another.

Nothing here says which of them is right, so none of them is kept: an expert decides, from the rejected rows. Rows are
compared with rows of their own kind only: a worse answer that another row teaches is no contradiction, since a
preference says which of two is better and not that either is wrong.
"""

import json
from typing import TYPE_CHECKING

from finetune_platform.curation.sifting import Sifted, sift
from finetune_platform.identity import ROW_ID_DIGITS, content_id

if TYPE_CHECKING:
    from daft import DataFrame

OTHERS_NAMED = 3

SAYS = {
    "sft": "the same prompt has another answer",
    "preference": "the same two answers are preferred the other way round",
    "unpaired_preference": "the same answer is judged the other way",
}
"""What a contradiction is, by kind; a text contradicts nothing."""


def drop_contradictions(rows: "DataFrame") -> Sifted:
    """Keeps rows on whose question all rows of their kind agree, in the whole data.

    A row takes a side on a question: of `sft`, which answer its prompt (with its tools) has; of `preference`, which of
    two answers is the better one; of `unpaired_preference`, whether an answer is wanted. A difference in `weight`
    alone is no contradiction: it changes what is trained, not what is right.
    """
    import daft
    from daft import col
    from daft.functions import when

    text = daft.DataType.string()
    question_of = daft.func(_question, return_dtype=text, use_process=False)
    side_of = daft.func(_side, return_dtype=text, use_process=False)
    sentence = daft.func(_sentence, return_dtype=text, use_process=False)

    told = col("kind"), col("messages"), col("rejected")
    keys = {"question": question_of(*told, col("text"), col("tools")), "side": side_of(*told, col("desirable"))}
    keyed = rows.with_columns(keys).collect()
    sides = keyed.groupby("question").agg(col("side").count_distinct().alias("sides"))
    disputed = (
        keyed.select("question", "position", "place")
        .join(sides.where(col("sides") > 1), on="question")
        .groupby("question", "sides")
        .agg(col("position").list_agg().alias("positions"), col("place").list_agg().alias("places"))
    )
    joined = keyed.join(disputed, on="question", how="left")
    several = col("sides") > 1
    detail = sentence(col("kind"), col("place"), col("positions"), col("places"))
    judged = joined.with_columns(
        {
            "reason": when(several, "contradiction").otherwise(None),
            "detail": when(several, detail).otherwise(None),
        }
    )
    return sift(judged.exclude("question", "side", "sides", "positions", "places"), "contradictions")


def _question(kind: str, messages: str, rejected: str | None, text: str | None, tools: str | None) -> str:
    if kind == "text":
        return content_id("text", text, ROW_ID_DIGITS)
    turns = [{k: v for k, v in m.items() if k != "weight"} for m in json.loads(messages)]
    answers: list[str] = []
    if kind == "preference":
        answers = sorted((_answer(turns[-1]), _answer(json.loads(rejected or "{}"))))
    elif kind == "unpaired_preference":
        answers = [_answer(turns[-1])]
    return content_id("question", [kind, turns[:-1], answers, tools], ROW_ID_DIGITS)


def _side(kind: str, messages: str, rejected: str | None, desirable: bool | None) -> str:
    if kind == "text":
        return ""
    return str(desirable) if kind == "unpaired_preference" else _answer(json.loads(messages)[-1])


def _answer(turn: dict[str, object]) -> str:
    return content_id("answer", {k: v for k, v in turn.items() if k != "weight"}, ROW_ID_DIGITS)


def _sentence(kind: str, place: str, positions: list[int] | None, places: list[str] | None) -> str | None:
    if positions is None or places is None:
        return None
    others = [other for _, other in sorted(zip(positions, places, strict=True)) if other != place]
    more = f" and {len(others) - OTHERS_NAMED} more" if len(others) > OTHERS_NAMED else ""
    return f"{place}: {SAYS[kind]} at {', '.join(others[:OTHERS_NAMED])}{more}"
