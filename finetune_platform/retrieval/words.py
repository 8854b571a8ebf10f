"""Finding by words: BM25 over a text's lower-cased words and numbers.

Codes and names that no sentence encoder knows are found here; meaning is the embeddings' business.
"""

import re
from collections.abc import Collection
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_platform.task_retrieval import Stopwords

if TYPE_CHECKING:
    import numpy as np

_WORD = re.compile(r"\w+")
_NO_WORDS = "\0"
"""Stands for the words of a text that has none: the library divides by the mean number of words."""


def words_of(text: str) -> list[str]:
    """The words to search by: `ERR-4032` is `err` and `4032`."""
    return _WORD.findall(text.casefold())


@lru_cache(maxsize=4)
def stopwords(language: Stopwords) -> frozenset[str]:
    """Words that say nothing of what is asked for, such as `what` and `the`, in the form that `words_of` gives."""
    if language == "none":
        return frozenset()
    from bm25s import stopwords as lists

    name = "EN_PLUS" if language == "english" else language.upper()
    return frozenset(part for word in getattr(lists, f"STOPWORDS_{name}") for part in words_of(word))


class WordIndex:
    """A BM25 index (Robertson's, in Lucene's form, k1 1.5 and b 0.75).

    Source: Kamphuis et al., Which BM25 Do You Mean? (2020); Lù, BM25S (2024), whose library keeps the scores.
    """

    def __init__(self, scores: Any) -> None:
        self._scores = scores

    @classmethod
    def of(cls, texts: list[str]) -> "WordIndex":
        """The index of some texts, at least one."""
        import bm25s

        scores = bm25s.BM25(method="lucene")
        scores.index([words_of(text) or [_NO_WORDS] for text in texts], show_progress=False)
        return cls(scores)

    @classmethod
    def load(cls, folder: Path) -> "WordIndex":
        import bm25s

        return cls(bm25s.BM25.load(folder))

    def save(self, folder: Path) -> None:
        self._scores.save(folder, show_progress=False)

    def scores(self, question: str, without: Collection[str] = ()) -> "np.ndarray":
        """A score for each text, shape `(texts,)`; 0 where they share no word with the question.

        Args:
            question: Any text.
            without: Words that do not count.
        """
        words = [word for word in words_of(question) if word not in without]
        # The library wants one word at least; this one is in no text that has words.
        scores: np.ndarray = self._scores.get_scores(words or [_NO_WORDS])
        return scores
