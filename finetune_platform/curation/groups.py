"""Names the group of each row: rows that must share a split, because one gives the other away.

Today a group is what normalises to the same prompt, or what the source itself calls one group. Near-duplicates by
MinHash, which also catch reworded prompts, are another step that comes with a later issue.
"""

import json
import re
import unicodedata
from collections import defaultdict
from typing import TYPE_CHECKING

from finetune_platform.identity import ROW_ID_DIGITS, content_id

if TYPE_CHECKING:
    from daft import DataFrame

_DIGITS = re.compile(r"\d+")
_NOT_WORDS = re.compile(r"[\W_]+")


def assign_groups(rows: "DataFrame") -> "DataFrame":
    """Rows with `group_id` filled in.

    `group_id` comes in as the group that the source names, or empty. Two rows share a group where their normalised
    prompts agree or their sources name the same group, and so on along the chain. A group takes its id from the
    least of its named groups, else from its prompt, so that more rows of a named group never rename it; only a row
    that joins two groups renames one of them.
    """
    import daft
    from daft import col
    from daft.functions import coalesce

    key_of = daft.func(prompt_key, return_dtype=daft.DataType.string(), use_process=False)
    keyed = rows.with_column("prompt_key", key_of(col("messages"), col("text"))).collect()
    named = keyed.where(col("group_id") != "").select("prompt_key", "group_id").distinct().to_pydict()
    home = _homes(list(zip(named["prompt_key"], named["group_id"], strict=True)))
    if not home:
        return keyed.with_column("group_id", col("prompt_key")).exclude("prompt_key").collect()
    homes = daft.from_pydict({"prompt_key": list(home), "home": list(home.values())})
    joined = keyed.join(homes, on="prompt_key", how="left")
    return (
        joined.with_column("group_id", coalesce(col("home"), col("prompt_key"))).exclude("prompt_key", "home").collect()
    )


def prompt_key(messages: str, text: str | None = None) -> str:
    """Content hash of a row's normalised prompt, system messages apart; of a text, of the whole normalised text.

    The prompt alone counts, so rows of every kind that ask the same share a group.

    Args:
        messages: The row's messages as stored.
        text: Its text, where its kind has one.
    """
    if text is not None:
        return content_id("gr", {"text": normalised(text)}, ROW_ID_DIGITS)
    turns = [m for m in json.loads(messages)[:-1] if m["role"] != "system"]
    return content_id("gr", {"prompt": [[m["role"], normalised(m.get("content") or "")] for m in turns]}, ROW_ID_DIGITS)


def normalised(text: str) -> str:
    """Text without what rarely makes another question: case, digits, punctuation, white space, letter variants.

    Text of nothing else (`???`) stays as it is: otherwise all such prompts would be one.
    """
    folded = _DIGITS.sub("0", unicodedata.normalize("NFKC", text).casefold())
    return _NOT_WORDS.sub(" ", folded).strip() or text


def _homes(pairs: list[tuple[str, str]]) -> dict[str, str]:
    """The group id of each prompt key that is in a named group, over chains of shared prompts and groups."""
    groups_of, prompts_of = defaultdict(list), defaultdict(list)
    for prompt, group in pairs:
        groups_of[prompt].append(group)
        prompts_of[group].append(prompt)
    home: dict[str, str] = {}
    # In sorted order the first group met of each chain is its least.
    for group in sorted(prompts_of):
        name, waiting = content_id("gr", {"group": group}, ROW_ID_DIGITS), [group]
        while waiting:
            for prompt in prompts_of[waiting.pop()]:
                if prompt not in home:
                    home[prompt] = name
                    waiting.extend(groups_of[prompt])
    return home
