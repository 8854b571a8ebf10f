"""Documents cut into rows: no token is lost, and each is predicted once."""

import itertools
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_platform.errors import PermanentError
from finetune_platform.inference.base_models import load_tokenizer
from finetune_platform.rows import Example
from finetune_platform.training.documents import tokenise_text

TEXTS = st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=80), max_size=6)


@pytest.fixture(scope="module")
def tokenizer(tiny_model):
    return load_tokenizer(tiny_model)


def documents(*texts: str) -> list[Example]:
    return [
        Example(kind="text", messages=[], text=text, source_uri=f"raw/{n}.txt", source_row=1)
        for n, text in enumerate(texts, 1)
    ]


@settings(max_examples=40, deadline=None)
@given(texts=TEXTS, max_length=st.integers(2, 40))
def test_every_token_is_predicted_once_and_none_is_lost(tokenizer, texts, max_length):
    rows = tokenise_text(documents(*texts), tokenizer, max_length)
    stream = [i for text in texts for i in [*tokenizer(text).input_ids, tokenizer.eos_token_id]]
    predicted = [
        token for row in rows for token, weight in zip(row.input_ids, row.weights, strict=True) if weight == 1.0
    ]
    assert predicted == stream[1:]
    assert [row.input_ids[0] for row in rows[:1]] == stream[:1]
    for before, row in itertools.pairwise(rows):
        assert row.input_ids[0] == before.input_ids[-1], "what was read last is what a row goes on from"
    assert all(len(row.input_ids) == max_length for row in rows[:-1])
    assert all(2 <= len(row.input_ids) <= max_length and row.weights[0] == 0 for row in rows)


def test_a_row_names_the_documents_that_it_is_of(tokenizer):
    rows = tokenise_text(documents("one two three " * 20, "four"), tokenizer, 30)
    assert rows[0].place == "raw/1.txt:1"
    assert rows[-1].place == "raw/1.txt:1 to raw/2.txt:1"


def test_documents_are_parted_by_the_tokens_that_the_tokenizer_has(tiny_model, tmp_path):
    from tokenizers.processors import TemplateProcessing

    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    tokenizer = load_tokenizer(folder)
    opening = ("<|im_start|>", tokenizer.convert_tokens_to_ids("<|im_start|>"))
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<|im_start|> $A", special_tokens=[opening])
    [row] = tokenise_text(documents("Hello", "you"), tokenizer, 100)
    assert tokenizer.decode(row.input_ids) == "<|im_start|>Hello<|im_end|><|im_start|>you<|im_end|>"
    tokenizer.eos_token = None
    with pytest.raises(PermanentError, match="has no end token"):
        tokenise_text(documents("Hello"), tokenizer, 100)
