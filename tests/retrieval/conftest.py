"""What tests of retrieval share: a task with a corpus, and its index, made once."""

from pathlib import Path

import pytest
from help_pages import write_pages

from finetune_platform.inference.embedder import load_embedder
from finetune_platform.lake import Lake
from finetune_platform.retrieval.build import build_index
from finetune_platform.retrieval.index import Index, load_index
from finetune_platform.retrieval.words import stopwords
from finetune_platform.task import Task


def help_task(folder: Path, model: Path) -> Task:
    """A task over the help pages in `folder/pages`."""
    return Task.model_validate(
        {
            "name": "bank_help",
            "description": "Answers customers.",
            "base_model": "./no-such-model",
            "system_prompt": "Answer.",
            "baseline_prompt": "Answer the customer.",
            "sources": [{"uri": "rows.jsonl", "format": "messages"}],
            "retrieval": {
                "corpus": [{"uri": "pages", "format": "markdown"}],
                "embedder": str(model),
                "chunk_chars": 300,
                "overlap_chars": 40,
            },
            "path": folder / "task.yaml",
        }
    )


@pytest.fixture
def bank_help(tmp_path: Path, embedding_model: Path) -> Task:
    """A task with twelve documents."""
    write_pages(tmp_path / "pages")
    return help_task(tmp_path, embedding_model)


@pytest.fixture(scope="session")
def help_index(tmp_path_factory: pytest.TempPathFactory, embedding_model: Path) -> Index:
    """The index of the help pages."""
    folder = tmp_path_factory.mktemp("help")
    write_pages(folder / "pages")
    lake = Lake(str(folder / "lake"))
    made = build_index(help_task(folder, embedding_model), lake, folder / "cache", print)
    return load_index(lake.fetch(made.path, folder / "copy"), load_embedder(embedding_model), stopwords("english"))
