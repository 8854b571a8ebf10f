"""The language that a text seems to be written in."""

from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

UNSURE = "unsure"

LEAST_PROBABILITY = 0.5
"""Of a language that is named. Of short English questions 2% stay below it, and hardly one is called another language;
without it every greeting would be."""

READ = 1000
"""Letters of a text that are read; more make nothing surer."""


def language(text: str) -> str:
    """ISO 639 code of a text's language; `UNSURE` where none is probable, as in a text of a word or two.

    Source: py3langid, naive Bayes over byte sequences (Lui & Baldwin 2012, ACL system demonstrations). Its model lies
    in the package; the same text always gives the same language.
    """
    name, probability = _identifier().classify(text[:READ])
    return str(name) if probability >= LEAST_PROBABILITY else UNSURE


@lru_cache(maxsize=1)
def _identifier() -> "LanguageIdentifier":
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
