"""How much arithmetic a training run is, counted from its model's shape and its plan before anything runs.

How fast a device does it belongs in `devices.py`, memory in `capacity.py`.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from finetune_platform.task_training import Quantization
from finetune_platform.training.batches import Step
from finetune_platform.training.collate import shared_tokens
from finetune_platform.training.objectives import Objective
from finetune_platform.training.quantised import bytes_in_4_bits, weights_in, weights_to_quantise
from finetune_platform.training.rows import TrainRow
from finetune_platform.training.whole_model import base_of, is_whole


class Network(NamedTuple):
    """What decides how much one token costs.

    Attributes:
        parameters: Of the base model, all of them.
        matrices: Of them those that every token is multiplied with: embeddings and output layer apart.
        head: Of the output layer, which only supervised tokens go through.
        adapter: Trained ones, beside those; none where all are trained.
        attention: Layers times the width of all heads together.
        bytes: Of the base model's weights, loaded.
        read: That one way through the weights moves: those; where they are held in 4 bits, also the copies in the
            number format that are written and read.
        frozen: Whether the matrices themselves are not trained.
    """

    parameters: int
    matrices: int
    head: int
    adapter: int
    attention: int
    bytes: int
    read: int
    frozen: bool


class Work(NamedTuple):
    """Of a whole run.

    Attributes:
        steps: Optimizer steps.
        passes: Forward passes, each with its backward pass.
        tokens: That they compute; what rows share counts once a pass.
        flops: Operations of the steps, two a multiply-add.
        validation_flops: Operations of measuring the validation loss, as often as the run does.
    """

    steps: int
    passes: int
    tokens: int
    flops: float
    validation_flops: float


def network_of(model: Any, quantization: Quantization | None = None) -> Network:
    """The figures of a model to be trained, which may be on the `meta` device.

    Args:
        model: Loaded, or its skeleton.
        quantization: How the weights that are not trained are held.
    """
    base, whole = base_of(model), is_whole(model)
    config = base.config.get_text_config()
    embeddings, head = base.get_input_embeddings().weight, base.get_output_embeddings().weight
    parameters = sum(weights_in(p) for p in base.parameters() if whole or not p.requires_grad)
    apart = head.numel() if head is embeddings else head.numel() + embeddings.numel()
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    held, copied = parameters * head.element_size(), 0
    if quantization is not None:
        quantised = weights_to_quantise(base)
        copied = quantised * head.element_size()
        held += bytes_in_4_bits(quantised, quantization) - copied
    return Network(
        parameters=parameters,
        matrices=parameters - apart,
        head=head.numel(),
        adapter=0 if whole else sum(p.numel() for p in model.parameters() if p.requires_grad),
        attention=config.num_hidden_layers * config.num_attention_heads * head_size,
        bytes=held,
        read=held + 2 * copied,
        frozen=not whole,
    )


def work_of(
    network: Network,
    plan: Sequence[Step],
    objective: Objective,
    packs: bool,
    held_out: Objective | None,
    eval_steps: int,
) -> Work:
    """Counts a run.

    A forward pass multiplies each token with every matrix, a backward pass again for the gradient of what went in: 4N
    operations for a token. Where all weights are trained it is 6N (Kaplan et al. 2020, section 2.1): matrices that are
    not frozen, and those of an adapter, get a gradient of their own. Attention adds 12 times layers times width for a
    pair of tokens that see each other (Chowdhery et al. 2022, appendix B). Only supervised tokens go through the output
    layer.

    Args:
        network: The model's figures.
        plan: Every step.
        objective: Whose units it numbers.
        packs: Whether what the rows of a pass share is computed once.
        held_out: Of the validation loss, None for none.
        eval_steps: Steps between two measurements of it.
    """
    passes, tokens, flops = 0, 0, 0.0
    for step in plan:
        for batch in step.batches:
            part = _counts(objective.rows(batch), packs)
            passes, tokens = passes + 1, tokens + part.tokens
            flops += _forward(network, part) + _backward(network, part)
    if held_out is None:
        return Work(len(plan), passes, tokens, flops, 0.0)
    measurements = -(-len(plan) // eval_steps)
    once = sum(_forward(network, _counts(some, packs)) for some in _by(held_out.rows(range(len(held_out.shapes))), 16))
    return Work(len(plan), passes, tokens, flops, measurements * once)


class _Counts(NamedTuple):
    tokens: int
    supervised: int
    pairs: float


def _counts(rows: Sequence[TrainRow], packs: bool) -> _Counts:
    inputs = [max(row.inputs, 1) for row in rows]
    supervised = sum(row.supervised for row in rows)
    if not packs:
        return _Counts(len(rows) * max(inputs), supervised, sum(n * n / 2 for n in inputs))
    shared = shared_tokens(rows) if len(rows) > 1 else 0
    own = [n - shared for n in inputs]
    return _Counts(shared + sum(own), supervised, shared**2 / 2 + sum(n * (shared + n / 2) for n in own))


def _forward(network: Network, part: _Counts) -> float:
    matrices = (network.matrices + network.adapter) * part.tokens + network.head * part.supervised
    return 2.0 * matrices + 4.0 * network.attention * part.pairs


def _backward(network: Network, part: _Counts) -> float:
    gradients = 1 if network.frozen else 2
    matrices = (gradients * network.matrices + 2 * network.adapter) * part.tokens
    matrices += gradients * network.head * part.supervised
    return 2.0 * matrices + 8.0 * network.attention * part.pairs


def _by(rows: Sequence[TrainRow], count: int) -> Iterable[Sequence[TrainRow]]:
    ordered = sorted(rows, key=lambda row: row.inputs)
    return [ordered[start : start + count] for start in range(0, len(ordered), count)]
