"""Rows and the task that tests of curation are made of, and a tokenizer to count by."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from finetune_platform.task import Task

MakeTask = Callable[..., Task]
Write = Callable[[str, bytes], Path]


def chat(prompt: str, answer: str, **more: Any) -> dict[str, Any]:
    """One row in OpenAI's format."""
    turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    return {"messages": turns, **more}


def count_words(chats: list[str | list[dict[str, Any]]]) -> list[int]:
    """A tokenizer that a person can check: one token a word."""
    said = [[chat] if isinstance(chat, str) else [str(m.get("content") or "") for m in chat] for chat in chats]
    return [sum(len(text.split()) for text in texts) for texts in said]


def jsonl(rows: list[Any]) -> bytes:
    """Rows as JSON lines."""
    return "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows).encode()


def tickets_task(
    folder: Path, *sources: dict[str, Any], evaluation: dict[str, Any] | None = None, **curation: Any
) -> Task:
    """A task whose file would stand in `folder`, by its sources and curation options."""
    return Task.model_validate(
        {
            "name": "tickets",
            "description": "Sorts tickets.",
            "base_model": "org/model",
            "system_prompt": "Sort it.",
            "baseline_prompt": "Sort the ticket.",
            "sources": list(sources) or [{"uri": "rows.jsonl", "format": "messages"}],
            "curation": {"min_rows": 3, **curation},
            "evaluation": evaluation or {},
            "path": folder / "tickets.yaml",
        }
    )
