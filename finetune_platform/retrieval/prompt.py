"""Passages as they stand in a prompt, and as an answer cites them.

Finding them belongs in `index.py`; whose prompt they enter, in `serving/`.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from finetune_platform.retrieval.index import Passage
from finetune_platform.task_retrieval import Retrieval

_FIELD = re.compile(r"\{(number|name|text)\}")


def render(passages: Sequence[Passage], wanted: Retrieval) -> str:
    """The text that brings passages to the model; empty where there are none."""
    if not passages:
        return ""
    written = [_passage(number, passage, wanted) for number, passage in enumerate(passages, start=1)]
    return wanted.prompt.replace("{passages}", "\n\n".join(written))


def with_passages(
    messages: Sequence[Mapping[str, Any]], passages: Sequence[Passage], wanted: Retrieval
) -> list[dict[str, Any]]:
    """Messages with passages in the place that the task gives them: the system prompt, or the last question."""
    told = [dict(message) for message in messages]
    if not (text := render(passages, wanted)):
        return told
    if wanted.place == "user":
        last = max((i for i, message in enumerate(told) if message["role"] == "user"), default=None)
        if last is not None:
            told[last]["content"] = f"{text}\n\n{told[last]['content']}"
        return told
    if told and told[0]["role"] == "system":
        told[0]["content"] = f"{told[0]['content']}\n\n{text}"
        return told
    return [{"role": "system", "content": text}, *told]


def question_of(messages: Sequence[Mapping[str, Any]]) -> str:
    """What passages are searched for: the text of the last user's message; empty where there is none."""
    content = next((m.get("content") for m in reversed(messages) if m["role"] == "user"), None) or ""
    if isinstance(content, str):
        return content
    return " ".join(str(part["text"]) for part in content if part.get("type") == "text")


def citations(passages: Sequence[Passage]) -> list[dict[str, Any]]:
    """What an answer's reader is told of its passages, in the order of their marks."""
    return [
        {
            "number": number,
            "name": passage.place.name,
            "uri": passage.place.uri,
            "row": passage.place.row or None,
            "start": passage.place.start,
            "end": passage.place.end,
            "score": round(passage.score, 6),
            "similarity": round(passage.similarity, 4),
        }
        for number, passage in enumerate(passages, start=1)
    ]


def _passage(number: int, passage: Passage, wanted: Retrieval) -> str:
    """One passage; in one pass, so that a document that says `{name}` is not taken for the template."""
    text = passage.text[: wanted.max_passage_chars]
    if len(passage.text) > wanted.max_passage_chars:
        text += "…"
    values = {"number": str(number), "name": passage.place.name, "text": text}
    return _FIELD.sub(lambda match: values[match[1]], wanted.passage)
