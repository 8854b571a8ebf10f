"""Rows as providers of fine-tuning take them: JSON lines of conversations, in their own words.

What is read from a dataset belongs in `rows.py`, and is the same for every place.
"""

from collections.abc import Sequence
from typing import Any

from finetune_platform.errors import BadInput
from finetune_platform.identity import canonical_json
from finetune_platform.inference.base_models import conversation
from finetune_platform.rows import Example
from finetune_platform.training.rows import place_of

BEDROCK_SCHEMA = "bedrock-conversation-2024"
ELSEWHERE = "leave the row out, or train elsewhere: launcher.place"


def openai_lines(rows: Sequence[Example], system_prompt: str) -> bytes:
    """Rows as OpenAI's fine-tuning takes them: one conversation a line, with tools and the turns' weights."""
    lines = []
    for row in rows:
        messages = [_weighted(m, row) for m in conversation(system_prompt, row.messages)]
        lines.append(canonical_json({"messages": messages, **({"tools": row.tools} if row.tools else {})}))
    return "".join(f"{line}\n" for line in lines).encode()


def _weighted(message: dict[str, object], row: Example) -> dict[str, object]:
    """OpenAI knows the weights 0 and 1 only, as whole numbers."""
    weight = message.get("weight")
    if weight is None:
        return message
    if weight not in (0, 1):
        raise BadInput(f"{place_of(row)}: a message has weight {weight}, and openai takes 0 and 1 only", ELSEWHERE)
    return {**message, "weight": int(weight)}


def bedrock_lines(rows: Sequence[Example], system_prompt: str, data_format: str) -> bytes:
    """Rows as Bedrock's model customization takes them.

    Args:
        rows: Conversations; of plain text.
        system_prompt: Opens every conversation.
        data_format: `conversation`, or `prompt_completion` for one question and one answer a line, where the system
            prompt stands above the question.

    Raises:
        BadInput: A row has tools, weights or more turns than the format can tell.
    """
    write = _conversation_line if data_format == "conversation" else _completion_line
    return "".join(f"{canonical_json(write(row, _plain_turns(row, system_prompt)))}\n" for row in rows).encode()


def _plain_turns(row: Example, system_prompt: str) -> list[tuple[str, str]]:
    turns = conversation(system_prompt, row.messages)
    if row.tools or any(set(turn) - {"role", "content"} and turn.get("weight") != 1 for turn in turns):
        raise BadInput(f"{place_of(row)}: it has tools or weights, and bedrock takes plain turns only", ELSEWHERE)
    return [(str(turn["role"]), str(turn["content"])) for turn in turns]


def _conversation_line(row: Example, turns: list[tuple[str, str]]) -> dict[str, Any]:
    system = [{"text": text} for role, text in turns if role == "system"]
    messages = [{"role": role, "content": [{"text": text}]} for role, text in turns if role != "system"]
    return {"schemaVersion": BEDROCK_SCHEMA, **({"system": system} if system else {}), "messages": messages}


def _completion_line(row: Example, turns: list[tuple[str, str]]) -> dict[str, Any]:
    roles = [role for role, _ in turns if role != "system"]
    if roles != ["user", "assistant"]:
        raise BadInput(f"{place_of(row)}: prompt_completion is for one question and one answer", ELSEWHERE)
    *asked, (_, answer) = turns
    return {"prompt": "\n\n".join(text for _, text in asked), "completion": answer}
