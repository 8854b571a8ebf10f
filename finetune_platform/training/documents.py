"""Documents as the trainer takes them: one stream of tokens, cut into rows that predict each token once.

Conversations belong in `rows.py`; a document has no template and no turn that is left out of the loss.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from finetune_platform.errors import PermanentError
from finetune_platform.rows import Example
from finetune_platform.training.rows import TOKENISE_AT_ONCE, TrainRow, place_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def tokenise_text(examples: Sequence[Example], tokenizer: "PreTrainedTokenizerBase", max_length: int) -> list[TrainRow]:
    """Rows of at most `max_length` tokens over all documents, one after the other.

    Documents are joined in their order, each opened by the tokenizer's beginning token where it sets one and closed
    by its end token, so that short ones fill a row together and long ones go on in the next. A row begins with the
    last token of the row before, as context only: cutting costs no prediction, and every token but the very first is
    predicted exactly once.

    Args:
        examples: Rows of kind `text`.
        tokenizer: Whose beginning and end tokens stand around a document.
        max_length: Most tokens of a row, 2 or more.

    Returns:
        Full rows and one that is shorter; none where there is no document.

    Raises:
        PermanentError: The tokenizer has no end token.
    """
    stream, starts = _stream(examples, tokenizer)
    rows = []
    for first in range(0, len(stream) - 1, max_length - 1):
        ids = stream[first : first + max_length]
        # The first token of a row is predicted in the row before; that of the stream from nothing.
        weights = [0.0] + [1.0] * (len(ids) - 1)
        rows.append(TrainRow(ids, weights, _place(examples, starts, first, first + len(ids) - 1)))
    return rows


def _stream(examples: Sequence[Example], tokenizer: "PreTrainedTokenizerBase") -> tuple[list[int], list[int]]:
    """The tokens of all documents, and where in them each document begins."""
    if tokenizer.eos_token_id is None:
        raise PermanentError(
            f"the tokenizer {type(tokenizer).__name__} has no end token, so nothing would part one document from "
            "the next",
            "use a base model whose tokenizer has one",
        )
    stream: list[int] = []
    starts: list[int] = []
    for ids in _tokens(examples, tokenizer):
        starts.append(len(stream))
        stream += ids
        if ids[-1:] != [tokenizer.eos_token_id]:
            stream.append(int(tokenizer.eos_token_id))
    return stream, starts


def _tokens(examples: Sequence[Example], tokenizer: "PreTrainedTokenizerBase") -> Iterator[list[int]]:
    for start in range(0, len(examples), TOKENISE_AT_ONCE):
        texts = [example.text or "" for example in examples[start : start + TOKENISE_AT_ONCE]]
        # A row is cut afterwards; the tokenizer's own warning of long texts would say otherwise.
        yield from tokenizer(texts, verbose=False).input_ids


def _place(examples: Sequence[Example], starts: Sequence[int], first: int, last: int) -> str:
    """The documents that tokens `first` to `last` of the stream come from."""
    from bisect import bisect_right

    begins, ends = (examples[bisect_right(starts, at) - 1] for at in (first, last))
    return place_of(begins) if begins is ends else f"{place_of(begins)} to {place_of(ends)}"
