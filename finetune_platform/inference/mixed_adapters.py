"""LoRA for a batch whose tokens belong to different adapters.

Adapters stand side by side in one stack a layer, so that those with one token each are one batched product; all
others get two products of their own. Reading adapters from disk belongs in `adapter_files.py`.
"""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

import torch

from finetune_platform.inference.adapter_files import AdapterWeights
from finetune_platform.inference.packed_linear import product_of

MOST_UNUSED = 6
"""Most places between two of a span that no token uses: to compute so many costs what another span does."""


class Span(NamedTuple):
    """Neighbouring tokens `start` to `stop` of the batch.

    With one place, all of them use its adapter. With several, each token uses another, in their order; where some are
    used by no token, `tokens` says for each place which token of the span is multiplied there (any, for those) and
    `rows` for each token at which of them it is.
    """

    place: int
    places: int
    start: int
    stop: int
    tokens: torch.Tensor | None = None
    rows: torch.Tensor | None = None


class CurrentPlan:
    """What the adapted layers look at; set before each forward pass. Tokens in no span use no adapter."""

    def __init__(self) -> None:
        self.spans: Sequence[Span] = ()


class AdaptedLinear:
    """Linear layers of one input side by side, plus what each token's adapter adds: x A B, the scaling folded into B.

    A of the layers stand side by side too: an input is multiplied once. Each layer's B is a product of its own:
    side by side they would be mostly zeros.

    Args:
        linears: The base model's layers, by name.
        current: Holds the plan of the running batch.
    """

    def __init__(self, linears: Mapping[str, torch.nn.Linear], current: CurrentPlan) -> None:
        self.shapes = {name: (linear.in_features, linear.out_features) for name, linear in linears.items()}
        self.current = current
        self._product = product_of(list(linears.values()))
        weight = next(iter(linears.values())).weight
        self.device = weight.device
        self._rank = 0
        self._down = weight.new_zeros(0, weight.shape[1], 0)  # A of each place: (places, inputs, layers * rank)
        # B of each place, a tensor for neighbours of one size: (places, layers, rank, outputs)
        sizes = [(outputs, len(list(alike))) for outputs, alike in groupby(shape[1] for shape in self.shapes.values())]
        self._ups = [weight.new_zeros(0, layers, 0, outputs) for outputs, layers in sizes]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Of (tokens, inputs) the outputs of all layers, (tokens, outputs)."""
        y = self._product(x)
        if self._rank:
            for span in self.current.spans:
                tokens = slice(span.start, span.stop)
                if span.places == 1:
                    self._add(y[tokens], x[tokens] @ self._down[span.place], span.place)
                else:
                    self._add_each(y[tokens], x[tokens], span)
        return y

    def _add(self, y: torch.Tensor, inner: torch.Tensor, place: int) -> None:
        inners = inner.split(self._rank, -1)
        number = column = 0
        for ups in self._ups:
            for up in ups[place]:
                stop = column + up.shape[1]
                y[:, column:stop].addmm_(inners[number], up)
                number, column = number + 1, stop

    def _add_each(self, y: torch.Tensor, x: torch.Tensor, span: Span) -> None:
        places = slice(span.place, span.place + span.places)
        if span.tokens is not None:
            x = x.index_select(0, span.tokens)
        inner = torch.bmm(x[:, None], self._down[places]).view(len(x), -1, self._rank)
        parts: list[torch.Tensor] = []
        number = 0
        for ups in self._ups:
            layers = ups.shape[1]
            mine = inner[:, number : number + layers].reshape(-1, 1, self._rank)
            parts.append(torch.bmm(mine, ups[places].flatten(0, 1)).view(len(x), -1))
            number += layers
        added = torch.cat(parts, -1) if len(parts) > 1 else parts[0]
        y += added if span.rows is None else added.index_select(0, span.rows)

    def put(self, place: int, places: int, pairs: Mapping[str, tuple[torch.Tensor, torch.Tensor]]) -> None:
        """Writes A (inputs, rank) and B (rank, outputs) of an adapter's layers at `place` of `places`."""
        own = {name: pairs[name] for name in self.shapes if name in pairs}
        self._make_room(places, max([self._rank, *(down.shape[1] for down, _ in own.values())]))
        if not self._rank:
            return
        # What an earlier adapter left: of large numbers even nothing times them is no number.
        self._down[place].zero_()
        ups = [up for ups in self._ups for up in ups[place]]
        for number, (name, up_here) in enumerate(zip(self.shapes, ups, strict=True)):
            up_here.zero_()
            if name in own:
                down, up = own[name]
                rank = down.shape[1]
                self._down[place, :, number * self._rank : number * self._rank + rank] = down
                up_here[:rank] = up

    def _make_room(self, places: int, rank: int) -> None:
        held, held_rank = len(self._down), self._rank
        if rank == 0 or (held >= places and held_rank == rank):
            return
        layers, places = len(self.shapes), max(places, held)
        down = self._down.new_zeros(places, self._down.shape[1], layers, rank)
        ups = [up.new_zeros(places, up.shape[1], rank, up.shape[3]) for up in self._ups]
        if held_rank:
            down[:held, :, :, :held_rank] = self._down.view(held, -1, layers, held_rank)
            for grown, up in zip(ups, self._ups, strict=True):
                grown[:held, :, :held_rank] = up
        self._down, self._ups, self._rank = down.flatten(2), ups, rank


class MixedAdapters:
    """The adapters of one model, each at its place in the layers' stacks."""

    def __init__(self) -> None:
        self.current = CurrentPlan()
        self._layers: list[AdaptedLinear] = []
        self._places: list[str | None] = []

    def adapted(self, linears: Mapping[str, torch.nn.Linear]) -> AdaptedLinear:
        """Linear layers of the model, by name, that adapters may change and that read the same input."""
        self._layers.append(AdaptedLinear(linears, self.current))
        return self._layers[-1]

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """Inputs and outputs of every layer that an adapter may change."""
        return {name: shape for layer in self._layers for name, shape in layer.shapes.items()}

    def add(self, adapter_id: str, weights: AdapterWeights) -> None:
        """Gives an adapter a place in the stacks."""
        place = self._places.index(None) if None in self._places else len(self._places)
        # Stacks double, so that growing copies each adapter a few times only; one that was empty holds all places.
        room = 1 << (max(place + 1, len(self._places)) - 1).bit_length()
        for layer in self._layers:
            layer.put(place, room, weights.pairs)
        self._places[place : place + 1] = [adapter_id]

    def remove(self, adapter_id: str) -> None:
        """Frees an adapter's place, if it has one."""
        self._places = [None if held == adapter_id else held for held in self._places]

    def arrange(self, tokens: Mapping[str | None, int]) -> list[str | None]:
        """Plans the next forward pass; returns in which order the adapters' tokens must stand.

        Args:
            tokens: Number of tokens of each adapter, all of them there; None stands for the base model.
        """
        place_of = {adapter: self._places.index(adapter) for adapter in tokens if adapter is not None}
        order = sorted(place_of, key=lambda adapter: (tokens[adapter] > 1, place_of[adapter]))
        together: list[list[str]] = []
        for adapter in (adapter for adapter in order if tokens[adapter] == 1):
            if together and place_of[adapter] - place_of[together[-1][-1]] <= MOST_UNUSED + 1:
                together[-1].append(adapter)
            else:
                together.append([adapter])
        groups = [*together, *([adapter] for adapter in order if tokens[adapter] > 1)]
        spans: list[Span] = []
        start = 0
        for group in groups:
            stop = start + sum(tokens[adapter] for adapter in group)
            spans.append(self._span([place_of[adapter] for adapter in group], start, stop))
            start = stop
        self.current.spans = spans
        return [*order, *([None] if None in tokens else [])]

    def _span(self, used: Sequence[int], start: int, stop: int) -> Span:
        place, places = used[0], used[-1] - used[0] + 1
        if places == len(used):
            return Span(place, places, start, stop)
        token_at = [0] * places
        for token, at in enumerate(used):
            token_at[at - place] = token
        return Span(place, places, start, stop, self._index(token_at), self._index([at - place for at in used]))

    def _index(self, rows: list[int]) -> torch.Tensor:
        return torch.tensor(rows, device=self._layers[0].device) if self._layers else torch.tensor(rows)
