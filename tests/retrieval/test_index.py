"""Searching: the right page where words alone fail, where meaning alone fails, and a fusion that anyone can check."""

from typing import get_args

import numpy as np
import pytest
from help_pages import PAGES

from finetune_platform.errors import BadInput
from finetune_platform.retrieval.index import RANK_OFFSET, Index, Place, _best
from finetune_platform.retrieval.words import WordIndex, stopwords, words_of
from finetune_platform.task_retrieval import Stopwords


def names(index: Index, chunks: list[int]) -> list[str]:
    return [index._places[chunk].name for chunk in chunks]


@pytest.mark.parametrize(
    ("question", "page"),
    [
        ("which percentage do you pay on deposits?", "pages/savings.md"),
        ("how do I get a flat financed?", "pages/mortgage.md"),
        ("I mistyped my secret code", "pages/pin.md"),
    ],
)
def test_synonyms_are_found_where_words_alone_fail(help_index: Index, question: str, page: str) -> None:
    assert page not in names(help_index, help_index.by_words(question, 3))
    assert help_index.search(question, 1)[0].place.name == page


def test_exact_codes_are_found_where_meaning_alone_fails(help_index: Index) -> None:
    """Incidents that differ in a number, which a sentence encoder can hardly tell apart."""
    numbers = [f"{n * n * 7919 % 99_999_989:08d}" for n in range(500, 560)]
    kinds = ("The printer was replaced", "A transfer was booked twice", "The night backup failed", "A door jammed")
    texts = [f"Incident {number}: {kinds[n % len(kinds)]}. Closed." for n, number in enumerate(numbers)]
    places = [Place(number, "incidents.txt", 0, 0, 1) for number in numbers]
    embedder = help_index._embedder
    words, unsaid = WordIndex.of(texts), stopwords("english")
    index = Index(help_index.manifest, places, texts, embedder.embed(texts), words, embedder, unsaid)
    questions = [f"what was {number} about?" for number in numbers]
    by_meaning = sum(index.by_meaning(question, 1) == [n] for n, question in enumerate(questions))
    fused = [index.search(question, 1)[0].place.name for question in questions]
    assert by_meaning < 0.75 * len(numbers)
    assert fused == numbers


def test_stopwords_are_not_searched_for() -> None:
    texts = ["what was that", "the card", "my own"]
    assert WordIndex.of(texts).scores("what was the card", stopwords("english")).argmax() == 1
    assert WordIndex.of(texts).scores("what was that", stopwords("english")).tolist() == [0, 0, 0]
    assert WordIndex.of(texts).scores("what was that", stopwords("none")).argmax() == 0
    for language in get_args(Stopwords):
        assert (language == "none") == (not stopwords(language))


def test_the_score_is_the_sum_over_both_rankings(help_index: Index) -> None:
    question = "the transfer was refused with ERR-4032"
    words, meaning = help_index.by_words(question, 100), help_index.by_meaning(question, 100)
    found = help_index.search(question, len(help_index))
    assert [p.score for p in found] == sorted((p.score for p in found), reverse=True)
    for passage in found:
        chunk = help_index._places.index(passage.place)
        rank = words.index(chunk) + 1 if chunk in words else None
        assert passage.word_rank == rank
        expected = 1 / (RANK_OFFSET + meaning.index(chunk) + 1) + (1 / (RANK_OFFSET + rank) if rank else 0)
        assert passage.score == pytest.approx(expected)
    assert found[0].place.name == "pages/err-4032.md"


def test_a_passage_says_where_it_stands(help_index: Index) -> None:
    passage = help_index.search("When do I get interest?", 1)[0]
    name = passage.place.name.removeprefix("pages/")
    assert name == "savings.md"
    assert PAGES[name][passage.place.start : passage.place.end] == passage.text


def test_several_questions_at_once_find_what_each_finds_alone(help_index: Index) -> None:
    questions = ["lost card", "", "ERR-4033", "?!", "x" * 100_000]
    together = help_index.search_all(questions, 3)
    for question, found in zip(questions, together, strict=True):
        assert [p.place for p in found] == [p.place for p in help_index.search(question, 3)]
    assert len(help_index.search("card", 500)) == len(help_index)


def test_another_embedder_is_refused(help_index: Index) -> None:
    manifest = help_index.manifest.model_copy(update={"embedder_id": "em-other"})
    with pytest.raises(BadInput, match=r"em-other[\s\S]*materialize bank_help/retrieval_index"):
        Index(manifest, [], [], np.zeros((0, 384)), help_index._words, help_index._embedder)


def test_equal_scores_keep_the_order_of_the_corpus() -> None:
    scores = np.array([0.5, 1.0, 0.5, 1.0, 0.5], dtype=np.float32)
    assert _best(scores, 3) == [1, 3, 0]
    assert _best(scores, 9) == [1, 3, 0, 2, 4]


def test_words_are_letters_and_digits_whatever_their_case() -> None:
    assert words_of("ERR-4032: Straße, naïve!") == ["err", "4032", "strasse", "naïve"]


def test_a_corpus_without_words_can_be_indexed() -> None:
    index = WordIndex.of(["...", "!?"])
    assert index.scores("anything").tolist() == [0.0, 0.0]
    assert index.scores("").max() >= 0
