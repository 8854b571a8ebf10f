"""The canonical row, `Example`: its fields, their column names and their place in Parquet.

Reading foreign formats belongs in `curation/sources.py`; this file only says what a row is.
"""

from typing import Any, Literal

import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from finetune_platform.identity import ROW_ID_DIGITS, canonical_json, content_id

Role = Literal["system", "user", "assistant", "tool"]
Kind = Literal["sft", "preference", "unpaired_preference", "text"]
LabelSource = Literal["imported", "production", "expert", "synthetic"]
Split = Literal["train", "validation", "test"]
SLICE_FIELDS = ("task_type", "difficulty", "label_source")
"""Fields by whose values rows are looked at apart, in reports and by gates."""

SPLITS: tuple[Split, ...] = ("train", "validation", "test")
KINDS: tuple[Kind, ...] = ("sft", "preference", "unpaired_preference", "text")


class Message(BaseModel):
    """One chat message, as OpenAI writes it.

    `weight` 0 keeps an assistant turn as context without training on it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    role: Role
    content: str | None = None
    name: str | None = None
    weight: float | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None

    def plain(self) -> dict[str, Any]:
        """The message as a chat template takes it: set fields only."""
        return self.model_dump(exclude_none=True)


class Example(BaseModel):
    """One row of a dataset.

    `prompt` is every message before the last assistant turn; `answer` is that turn's content. By `kind`:

    - `sft`: `messages` end with the answer to learn.
    - `preference`: they end with the better answer; `rejected` is the turn that stands in its place and is worse.
    - `unpaired_preference`: they end with an answer that is `desirable` or is not.
    - `text`: no messages; `text` is a document to read on from, without any template.
    """

    model_config = ConfigDict(extra="forbid")

    kind: Kind = "sft"
    messages: list[Message]
    rejected: Message | None = None
    desirable: bool | None = None
    text: str | None = None
    tools: list[dict[str, Any]] | None = None
    task_type: str = ""
    difficulty: str = ""
    label_source: LabelSource = "imported"
    source_uri: str
    source_row: int
    group_id: str = ""

    @property
    def example_id(self) -> str:
        """Hash of what the model sees: messages, tools, and what the row's kind adds to them."""
        content: dict[str, Any] = {"messages": [m.plain() for m in self.messages]}
        if self.rejected is not None:
            content["rejected"] = self.rejected.plain()
        for field in ("desirable", "text", "tools"):
            if (value := getattr(self, field)) is not None:
                content[field] = value
        return content_id("ex", content, ROW_ID_DIGITS)

    @property
    def prompt(self) -> list[Message]:
        return self.messages[:-1]

    @property
    def answer(self) -> str:
        return self.messages[-1].content or "" if self.messages else ""

    def record(self) -> dict[str, Any]:
        """The row as stored: one flat dict whose keys are `EXAMPLE_SCHEMA`'s columns."""
        row = self.model_dump(exclude={"messages", "rejected", "tools"})
        row["example_id"] = self.example_id
        row["messages"] = canonical_json([m.plain() for m in self.messages])
        row["rejected"] = canonical_json(self.rejected.plain()) if self.rejected is not None else None
        row["tools"] = canonical_json(self.tools) if self.tools is not None else None
        row["prompt"] = canonical_json([m.plain() for m in self.prompt])
        row["answer"] = self.answer
        return row

    @classmethod
    def from_record(cls, row: dict[str, Any]) -> "Example":
        """The inverse of `record`; columns that are not fields are ignored."""
        import json

        fields = {k: v for k, v in row.items() if k in cls.model_fields}
        fields["messages"] = json.loads(row["messages"])
        fields["rejected"] = json.loads(row["rejected"]) if row.get("rejected") else None
        fields["tools"] = json.loads(row["tools"]) if row.get("tools") else None
        return cls.model_validate(fields)


EXAMPLE_SCHEMA = pa.schema(
    [
        ("example_id", pa.string()),
        ("kind", pa.string()),
        ("messages", pa.string()),
        ("prompt", pa.string()),
        ("answer", pa.string()),
        ("rejected", pa.string()),
        ("desirable", pa.bool_()),
        ("text", pa.string()),
        ("tools", pa.string()),
        ("task_type", pa.string()),
        ("difficulty", pa.string()),
        ("label_source", pa.string()),
        ("source_uri", pa.string()),
        ("source_row", pa.int64()),
        ("group_id", pa.string()),
    ]
)
"""`messages`, `prompt`, `rejected` and `tools` are canonical JSON: lossless for any tool call, and hashed as stored."""

REJECTED_SCHEMA = pa.schema(
    [
        ("source_uri", pa.string()),
        ("source_row", pa.int64()),
        ("stage", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("content", pa.string()),
    ]
)
"""A row set aside: where it came from, which step refused it, a countable reason, the sentence for a person, and
the row itself (at most `REJECTED_CONTENT_CHARS` characters)."""

LABELS_PLACE = "labels/"
"""What the source of a row begins with that a label gave; its batch, or the label itself, follows."""

LABELS_NAME = "labels.parquet"
"""The file of a label set: what `labeling/` writes and `curation/` reads."""

REJECTED_CONTENT_CHARS = 2000


def labels_path(task: str) -> str:
    """Where a task's labels lie in the lake: a Delta table, which `labeling/` writes."""
    return f"{task}/labels"
