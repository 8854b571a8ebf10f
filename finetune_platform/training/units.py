"""The rows of a split as a stage's method takes them: what one training unit is, and the objective over them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from finetune_platform.rows import Example
from finetune_platform.task_training import Stage
from finetune_platform.training.collate import shared_tokens
from finetune_platform.training.documents import tokenise_text
from finetune_platform.training.engine import Engine
from finetune_platform.training.objectives import DirectPreference, KahnemanTversky, Objective, OddsRatio, Tokens
from finetune_platform.training.preferences import Judged, Pair, tokenise_judged, tokenise_pairs
from finetune_platform.training.rows import TrainRow, tokenise

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Units(NamedTuple):
    """What a stage trains on.

    Attributes:
        rows: Every tokenised row; those of a pair follow one another.
        pairs: For `dpo` and `orpo`.
        judged: For `kto`.
        noun: What a unit is called.
        without: Rows that have nothing to learn and are left out.
    """

    rows: list[TrainRow]
    pairs: list[Pair]
    judged: list[Judged]
    noun: str = "rows"
    without: int = 0

    def objective(self, stage: Stage, engine: Engine) -> Objective:
        """What the stage makes smaller on them."""
        shared = shared_tokens(self.rows) if engine.packs else 0
        if stage.method == "dpo":
            return DirectPreference(self.pairs, stage.beta, shared)
        if stage.method == "orpo":
            return OddsRatio(self.pairs, stage.beta, shared)
        if stage.method == "kto":
            weights = (stage.desirable_weight, stage.undesirable_weight)
            return KahnemanTversky(self.judged, stage.beta, *weights, shared)
        return Tokens(self.rows, engine.shapes(self.rows))


def units_of(
    examples: Sequence[Example], tokenizer: "PreTrainedTokenizerBase", stage: Stage, system_prompt: str
) -> Units:
    """Tokenises rows of the stage's kind.

    Raises:
        BadInput: A row does not fit the template or `max_length`.
        PermanentError: The template or the tokenizer does not allow this method.
    """
    if stage.kind == "text":
        # Joined with another document's, no piece would be one person's.
        documents = [examples] if stage.privacy is None else [[example] for example in examples]
        pieces = [row for part in documents for row in tokenise_text(part, tokenizer, stage.max_length)]
        return Units(pieces, [], [], "pieces of text")
    if stage.kind == "preference":
        pairs = tokenise_pairs(examples, tokenizer, system_prompt, stage.max_length)
        return Units([row for pair in pairs for row in (pair.chosen, pair.rejected)], pairs, [], "pairs")
    if stage.kind == "unpaired_preference":
        judged = tokenise_judged(examples, tokenizer, system_prompt, stage.max_length)
        return Units([one.row for one in judged], [], judged, "judged answers")
    every = tokenise(examples, tokenizer, system_prompt, stage.max_length)
    rows = [row for row in every if row.supervised]
    return Units(rows, [], [], without=len(every) - len(rows))
