"""Tokens to text while they come: whole characters only, and nothing of or after a stop string.

Choosing tokens belongs in `sampling.py`.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

INCOMPLETE = "\ufffd"
"""What a tokenizer gives for bytes that are no whole character yet."""


class AnswerText:
    """The text of one answer.

    Args:
        tokenizer: Of the model.
        stop: Texts before which the answer ends.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", stop: Sequence[str]) -> None:
        self.stopped = False
        self._tokenizer = tokenizer
        self._stop = stop
        self._tokens: list[int] = []
        self._context = 0  # decoded again with new tokens, whose text may depend on it
        self._shown = 0
        self._held = ""

    def add(self, token: int) -> str:
        """The text that may be shown now; empty while characters are incomplete or a stop string may be starting."""
        self._tokens.append(token)
        return self._release(self._decoded(final=False), final=False)

    def end(self) -> str:
        """The rest of the text."""
        return "" if self.stopped else self._release(self._decoded(final=True), final=True)

    def _decoded(self, final: bool) -> str:
        before = self._decode(self._tokens[self._context : self._shown])
        after = self._decode(self._tokens[self._context :])
        if not final and (len(after) <= len(before) or after.endswith(INCOMPLETE)):
            return ""
        self._context, self._shown = self._shown, len(self._tokens)
        return after[len(before) :]

    def _decode(self, tokens: list[int]) -> str:
        return str(self._tokenizer.decode(tokens, skip_special_tokens=True))

    def _release(self, text: str, final: bool) -> str:
        self._held += text
        found = [at for at in (self._held.find(stop) for stop in self._stop) if at >= 0]
        if found:
            self.stopped = True
            released, self._held = self._held[: min(found)], ""
            return released
        keep = 0 if final else self._possible_start()
        released, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return released

    def _possible_start(self) -> int:
        """Length of the longest end of the held text that begins a stop string."""
        longest = max((len(stop) for stop in self._stop), default=0) - 1
        for length in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self._stop):
                return length
        return 0
