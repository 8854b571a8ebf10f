"""What a stage makes smaller: the loss of tokens (`cpt`, `sft`) or of preferences (`dpo`, `orpo`, `kto`).

An objective counts in units: a row, or a pair of answers. How rows become tensors belongs in `collate.py`, the loss of
tokens in `loss.py`.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from finetune_platform.training.batches import Shape, split_by_tokens
from finetune_platform.training.forward import Forward
from finetune_platform.training.preferences import Judged, Pair, prompt_tokens
from finetune_platform.training.rows import TrainRow

if TYPE_CHECKING:
    import torch

    from finetune_platform.training.collate import Batch

MARGINS: tuple[str, ...] = ("reward_margin", "reward_accuracy")
"""By how much the better answer is rewarded more than the worse one, and in how many pairs it is."""

REFERENCE_TOKENS = 2048
"""Most tokens of a forward pass that computes the reference's log-probabilities."""


class Loss(NamedTuple):
    """Of some units: the sum of their losses, and sums of what is measured beside it."""

    total: "torch.Tensor"
    measures: dict[str, float]


class Objective(Protocol):
    """What the training loop asks of a stage's method; `measured` names what it measures beside the loss."""

    measured: tuple[str, ...]

    @property
    def shapes(self) -> list[Shape]:
        """Of each unit, for the plan."""

    def rows(self, units: Sequence[int]) -> list[TrainRow]:
        """What a forward pass of some units reads."""

    def weight(self, units: Sequence[int]) -> float:
        """What the sum of their losses is divided by, to be the mean."""

    def loss(self, forward: Forward, units: Sequence[int]) -> Loss:
        """Of one forward pass."""


class Tokens:
    """The mean cross-entropy of supervised tokens.

    Args:
        rows: Of conversations or documents.
        shapes: Of the rows.
    """

    measured: tuple[str, ...] = ()

    def __init__(self, rows: Sequence[TrainRow], shapes: Sequence[Shape]) -> None:
        self._rows, self.shapes = rows, list(shapes)

    def rows(self, units: Sequence[int]) -> list[TrainRow]:
        return [self._rows[unit] for unit in units]

    def weight(self, units: Sequence[int]) -> float:
        return sum(sum(self._rows[unit].weights) for unit in units)

    def loss(self, forward: Forward, units: Sequence[int]) -> Loss:
        return Loss(forward.supervised_loss(self.rows(units)), {})


class _Pairs:
    """Units of two rows each, which share at least their prompt."""

    measured = MARGINS

    def __init__(self, pairs: Sequence[Pair], beta: float, shared: int) -> None:
        self._pairs, self._beta = pairs, beta
        self.shapes = [Shape(pair.chosen.inputs + pair.rejected.inputs - shared, 0, shared) for pair in pairs]

    def rows(self, units: Sequence[int]) -> list[TrainRow]:
        return [row for unit in units for row in (self._pairs[unit].chosen, self._pairs[unit].rejected)]

    def weight(self, units: Sequence[int]) -> float:
        return float(len(units))


class DirectPreference(_Pairs):
    """DPO (Rafailov et al. 2023, equation 7): the better answer becomes likelier than the worse, against a reference.

    The reference is the model at the beginning of the stage; its log-probabilities are computed once, by `refer`.

    Args:
        pairs: Better and worse answers.
        beta: How much the model is held to the reference; TRL's name and default.
        shared: Tokens that all pairs begin with.
    """

    def __init__(self, pairs: Sequence[Pair], beta: float, shared: int = 0) -> None:
        super().__init__(pairs, beta, shared)
        self._reference: list[tuple[float, float]] = []

    def refer(self, forward: Forward) -> None:
        """Computes the reference's log-probabilities with today's weights."""
        sums = reference_sums(forward, self.rows(range(len(self._pairs))))
        self._reference = list(zip(sums[::2], sums[1::2], strict=True))

    def loss(self, forward: Forward, units: Sequence[int]) -> Loss:
        import torch
        from torch.nn.functional import logsigmoid

        sums, _ = _sums(forward, self.rows(units))
        reference = torch.tensor([self._reference[unit] for unit in units], device=sums.device)
        rewards = self._beta * (sums.view(-1, 2) - reference)
        margins = rewards[:, 0] - rewards[:, 1]
        return Loss(-logsigmoid(margins).sum(), _margins(rewards))


class OddsRatio(_Pairs):
    """ORPO (Hong et al. 2024, equation 6): the better answer's loss, and the odds of the better over the worse one.

    Without a reference. The probability of an answer is that of its mean token, as in TRL; only answers count.

    Args:
        pairs: Better and worse answers.
        beta: The weight of the odds; λ in the paper, `beta` in TRL.
        shared: Tokens that all pairs begin with.
    """

    def __init__(self, pairs: Sequence[Pair], beta: float, shared: int = 0) -> None:
        super().__init__(pairs, beta, shared)

    def loss(self, forward: Forward, units: Sequence[int]) -> Loss:
        import torch
        from torch.nn.functional import logsigmoid

        sums, batch = _sums(forward, self.rows(units))
        counts = torch.bincount(batch.owners, minlength=len(sums)).clamp(min=1)
        means = (sums / counts).view(-1, 2)
        odds = means - torch.log1p(-means.exp().clamp(max=1 - 1e-6))
        ratio = logsigmoid(odds[:, 0] - odds[:, 1])
        return Loss((-means[:, 0] - self._beta * ratio).sum(), _margins(self._beta * means.detach()))


class KahnemanTversky:
    """KTO (Ethayarajh et al. 2024, equation 8): wanted answers become likelier than in the reference, others less.

    How far the model is from the reference altogether is estimated in each forward pass, without a gradient, from each
    prompt with the next row's answer, as in TRL.

    Args:
        judged: Answers and whether they are wanted.
        beta: How much the model is held to the reference.
        desirable_weight: Of wanted answers; TRL's name.
        undesirable_weight: Of the others.
        shared: Tokens that all rows begin with.
    """

    measured = MARGINS

    def __init__(
        self,
        judged: Sequence[Judged],
        beta: float,
        desirable_weight: float = 1.0,
        undesirable_weight: float = 1.0,
        shared: int = 0,
    ) -> None:
        self._judged, self._beta = judged, beta
        self._weights = {True: desirable_weight, False: undesirable_weight}
        following = [*judged[1:], *judged[:1]]
        self._strangers = [_answered_by(one.row, other.row) for one, other in zip(judged, following, strict=True)]
        self.shapes = [Shape(one.row.inputs, 0, shared) for one in judged]
        self._reference: list[tuple[float, float]] = []

    def rows(self, units: Sequence[int]) -> list[TrainRow]:
        return [self._judged[unit].row for unit in units]

    def weight(self, units: Sequence[int]) -> float:
        return float(len(units))

    def refer(self, forward: Forward) -> None:
        """Computes the reference's log-probabilities with today's weights."""
        own = reference_sums(forward, [one.row for one in self._judged])
        self._reference = list(zip(own, reference_sums(forward, self._strangers), strict=True))

    def loss(self, forward: Forward, units: Sequence[int]) -> Loss:
        import torch

        reference = torch.tensor([self._reference[unit] for unit in units], device=forward.engine.device)
        with torch.no_grad():
            strangers, _ = _sums(forward, [self._strangers[unit] for unit in units])
            apart = (strangers - reference[:, 1]).mean().clamp(min=0)
        sums, _ = _sums(forward, self.rows(units))
        ratios = sums - reference[:, 0]
        wanted = torch.tensor([self._judged[unit].desirable for unit in units], device=sums.device)
        signs = torch.where(wanted, 1.0, -1.0)
        weights = torch.where(wanted, self._weights[True], self._weights[False])
        losses = weights * (1 - torch.sigmoid(self._beta * signs * (ratios - apart)))
        rewards = self._beta * ratios.detach()
        measures = {
            "reward_margin": float((signs * rewards).sum()),
            "reward_accuracy": float((signs * rewards > 0).sum()),
        }
        return Loss(losses.sum(), measures)


def reference_sums(forward: Forward, rows: Sequence[TrainRow]) -> list[float]:
    """The log-probability of each row's answer, without a gradient or dropout, in order."""
    import torch

    shapes = forward.engine.shapes(rows)
    order = sorted(range(len(rows)), key=lambda i: (shapes[i].family, shapes[i].tokens))
    sums = [0.0] * len(rows)
    was_training = forward.model.training
    forward.model.eval()
    with torch.no_grad():
        for part in split_by_tokens(order, shapes, REFERENCE_TOKENS):
            found, _ = _sums(forward, [rows[i] for i in part])
            for i, value in zip(part, found.tolist(), strict=True):
                sums[i] = value
    forward.model.train(was_training)
    return sums


def _sums(forward: Forward, rows: Sequence[TrainRow]) -> "tuple[torch.Tensor, Batch]":
    """The log-probability of each row's answer, (rows,)."""
    values, batch = forward.log_probs(rows)
    return values.new_zeros(len(rows)).index_add(0, batch.owners, values), batch


def _margins(rewards: "torch.Tensor") -> dict[str, float]:
    """Sums over pairs; `rewards` is (pairs, better and worse)."""
    margins = (rewards[:, 0] - rewards[:, 1]).detach()
    return {"reward_margin": float(margins.sum()), "reward_accuracy": float((margins > 0).sum())}


def _answered_by(row: TrainRow, other: TrainRow) -> TrainRow:
    """A row's prompt with another's answer."""
    own, theirs = prompt_tokens(row), prompt_tokens(other)
    weights = [0.0] * own + other.weights[theirs:]
    return TrainRow(row.input_ids[:own] + other.input_ids[theirs:], weights, row.place)
