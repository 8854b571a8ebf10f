"""Scores of one answer against one gold text: exact match and token F1.

Corpus values and intervals are in `scores.py`; scores of structured answers in `entities.py`.
"""

import re
from collections import Counter

_UNSPACED = "\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_TOKEN = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")
"""A word, or one character of a script that puts no spaces between words (as MLQA scores them)."""


def exact_match(answer: str, gold: str) -> float:
    """1 where both are the same text, white space around them apart; else 0."""
    return float(answer.strip() == gold.strip())


def words(text: str) -> list[str]:
    """Case-folded words without punctuation; a text of symbols alone (`👍`, `+`) gives its characters.

    Articles stay, unlike in SQuAD: dropping them helps English alone.
    """
    return _TOKEN.findall(text.casefold()) or list("".join(text.split()))


def token_f1(answer: str, gold: str) -> float:
    """F1 of the two bags of words, in [0, 1]; 1 where both are empty.

    Source: Rajpurkar et al. 2016, "SQuAD", section 6.1 (each repetition of a word counts).
    """
    ours, theirs = Counter(words(answer)), Counter(words(gold))
    total = ours.total() + theirs.total()
    return 2 * (ours & theirs).total() / total if total else 1.0
