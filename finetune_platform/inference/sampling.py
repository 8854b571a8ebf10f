"""The next token of each row: the likeliest one, or a draw that the row's own seed decides.

Which rows there are is the scheduler's; turning tokens to text and finding stop strings belongs in `answer_text.py`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch

LEAST_TEMPERATURE = 1e-5
"""Below it logits divided by the temperature overflow; the likeliest token is taken."""


class Sampling(NamedTuple):
    """How an answer is chosen and where it ends.

    Attributes:
        temperature: 0 takes the likeliest token each time.
        top_p: Draws are made among the fewest tokens whose probabilities reach this sum (Holtzman et al. 2020).
        seed: Equal seeds give equal draws, whatever else is in the batch; None: another one each time.
        stop: Texts before which the answer ends.
        max_tokens: Most tokens of the answer.
    """

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()


class Draw(NamedTuple):
    """A row's sampling and its own stream of random numbers (None for a row that takes the likeliest token)."""

    sampling: Sampling
    generator: torch.Generator | None

    @classmethod
    def of(cls, sampling: Sampling, device: str) -> "Draw":
        if sampling.temperature < LEAST_TEMPERATURE:
            return cls(sampling, None)
        generator = torch.Generator(device)
        if sampling.seed is None:
            generator.seed()
        else:
            # Any integer is a seed in OpenAI's interface; torch's own limits are 64 bits.
            generator.manual_seed(sampling.seed % 2**63)
        return cls(sampling, generator)


def next_tokens(logits: torch.Tensor, draws: Sequence[Draw]) -> list[int | None]:
    """One token a row; None where a row's logits are no numbers.

    Args:
        logits: (rows, vocabulary).
        draws: How each row chooses.
    """
    if not draws:
        return []
    likeliest = logits.max(-1)
    tokens: list[int | None] = list(likeliest.indices.tolist())
    for row, valid in enumerate(likeliest.values.isfinite().tolist()):
        draw = draws[row]
        if not valid:
            tokens[row] = None
        elif draw.generator is not None:
            tokens[row] = _drawn(logits[row], draw.sampling, draw.generator)
    return tokens


def _drawn(logits: torch.Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    probabilities = (logits.float() / sampling.temperature).softmax(-1)
    if sampling.top_p >= 1:
        return int(torch.multinomial(probabilities, 1, generator=generator))
    ranked, order = probabilities.sort(descending=True)
    # The token that crosses the sum stays, so there is always one.
    ranked[1:][ranked.cumsum(-1)[:-1] >= sampling.top_p] = 0
    return int(order[torch.multinomial(ranked, 1, generator=generator)])
