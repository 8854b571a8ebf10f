"""The retrieval section of a task file: defaults, and bad values told with their line."""

from pathlib import Path

import pytest

from finetune_platform.errors import BadInput
from finetune_platform.model_ref import DEFAULT_EMBEDDER
from finetune_platform.task_file import load_task

TASK = """name: help_desk
description: Answers questions.
base_model: ./model
system_prompt: Answer.
baseline_prompt: Answer the question.
sources: [{uri: rows.jsonl, format: messages}]
retrieval:
  corpus:
    - uri: docs/
"""


def test_a_corpus_is_all_that_is_needed(tmp_path: Path) -> None:
    (tmp_path / "task.yaml").write_text(TASK)
    retrieval = load_task(tmp_path / "task.yaml").retrieval
    assert retrieval is not None
    assert (retrieval.embedder, retrieval.top_k, retrieval.corpus[0].suffixes) == (DEFAULT_EMBEDDER, 4, (".txt",))


@pytest.mark.parametrize(
    ("more", "line", "told"),
    [
        ("  topk: 3\n", 10, 'retrieval.topk: unknown key; did you mean "top_k"?'),
        ("  top_k: 0\n", 10, "retrieval.top_k: Input should be greater than or equal to 1"),
        ("  chunk_chars: 400\n  overlap_chars: 300\n", 11, "overlap_chars: 300 is more than half of chunk_chars"),
        ("  overlap_chars: 401\n", 10, "overlap_chars: 401 is more than half of chunk_chars"),
        ("  prompt: See the passages.\n", 10, "retrieval.prompt: has no {passages}"),
        ('  passage: "{text}"\n', 10, "retrieval.passage: has no {number}"),
        ("  stopwords: englisch\n", 10, 'did you mean "english"?'),
        ("  cron: nightly\n", 10, "is not a five-field cron expression"),
        ("      format: pdf\n", 10, "'pdf' is not one of text, markdown, jsonl"),
        ("      name_field: title\n", 9, "go with format: jsonl"),
        ("    - uri: package://docs==1/x\n", 10, "needs sha256"),
        ("  embedder: package://m==1/model\n", 10, "needs sha256"),
    ],
)
def test_a_bad_value_is_told_with_its_line(more: str, line: int, told: str, tmp_path: Path) -> None:
    path = tmp_path / "task.yaml"
    path.write_text(TASK + more)
    with pytest.raises(BadInput) as refused:
        load_task(path)
    assert refused.value.problem.startswith(f"{path}:{line}: ")
    assert told in refused.value.problem
