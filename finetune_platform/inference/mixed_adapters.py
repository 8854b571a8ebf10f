"""LoRA for a batch whose tokens belong to different adapters.

Adapters in use stand side by side in one stack a layer, so that neighbours with one token each are one batched
product; all others get two products of their own. Reading adapters from disk belongs in `adapter_files.py`.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import torch

from finetune_platform.inference.adapter_files import AdapterWeights
from finetune_platform.inference.packed_linear import product_of


class Span(NamedTuple):
    """Neighbouring tokens `start` to `stop` of the batch.

    With one place, all of them use its adapter; with several, there is one token for each place in turn.
    """

    place: int
    places: int
    start: int
    stop: int


class CurrentPlan:
    """What the adapted layers look at; set before each forward pass. Tokens in no span use no adapter."""

    def __init__(self) -> None:
        self.spans: Sequence[Span] = ()


class AdaptedLinear:
    """Linear layers of one input side by side, plus what each token's adapter adds: x A B, the scaling folded into B.

    A of the layers stand side by side too; B of each has rows of its own, so that it sees its layer's A alone.

    Args:
        linears: The base model's layers, by name.
        current: Holds the plan of the running batch.
    """

    def __init__(self, linears: Mapping[str, torch.nn.Linear], current: CurrentPlan) -> None:
        self.shapes = {name: (linear.in_features, linear.out_features) for name, linear in linears.items()}
        self.current = current
        self._product = product_of(list(linears.values()))
        weight = next(iter(linears.values())).weight
        outputs = sum(outputs for _, outputs in self.shapes.values())
        self._rank = 0
        self._down = weight.new_zeros(0, weight.shape[1], 0)  # A of each place: (places, inputs, layers * rank)
        self._up = weight.new_zeros(0, 0, outputs)  # B of each place: (places, layers * rank, outputs)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Of (tokens, inputs) the outputs of all layers, (tokens, outputs)."""
        y = self._product(x)
        if self._rank:
            for place, places, start, stop in self.current.spans:
                if places == 1:
                    y[start:stop].addmm_(x[start:stop] @ self._down[place], self._up[place])
                else:
                    inner = torch.bmm(x[start:stop, None], self._down[place : place + places])
                    y[start:stop, None].baddbmm_(inner, self._up[place : place + places])
        return y

    def put(self, place: int, places: int, pairs: Mapping[str, tuple[torch.Tensor, torch.Tensor]]) -> None:
        """Writes A (inputs, rank) and B (rank, outputs) of an adapter's layers at `place` of `places`."""
        own = {name: pairs[name] for name in self.shapes if name in pairs}
        self._make_room(places, max([self._rank, *(down.shape[1] for down, _ in own.values())]))
        if not self._rank:
            return
        self._up[place] = 0  # what an earlier adapter left in `_down` is then multiplied by nothing
        column = 0
        for number, (name, (_, outputs)) in enumerate(self.shapes.items()):
            if name in own:
                down, up = own[name]
                start, stop = number * self._rank, number * self._rank + down.shape[1]
                self._down[place, :, start:stop] = down
                self._up[place, start:stop, column : column + outputs] = up
            column += outputs

    def _make_room(self, places: int, rank: int) -> None:
        held, held_rank = len(self._down), self._rank
        if rank == 0 or (held >= places and held_rank == rank):
            return
        layers, places = len(self.shapes), max(places, held)
        down = self._down.new_zeros(places, self._down.shape[1], layers, rank)
        up = self._up.new_zeros(places, layers, rank, self._up.shape[2])
        if held_rank:
            down[:held, :, :, :held_rank] = self._down.view(held, -1, layers, held_rank)
            up[:held, :, :held_rank] = self._up.view(held, layers, held_rank, -1)
        self._down, self._up = down.flatten(2), up.flatten(1, 2)
        self._rank = rank


class MixedAdapters:
    """The adapters of one model: those loaded, and the places of those in use."""

    def __init__(self) -> None:
        self.current = CurrentPlan()
        self.loaded: dict[str, AdapterWeights] = {}
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
        """Keeps an adapter's weights, for `prepare` to find."""
        self.loaded[adapter_id] = weights

    def remove(self, adapter_id: str) -> None:
        """Forgets an adapter, if it is there."""
        self.loaded.pop(adapter_id, None)
        self._places = [None if held == adapter_id else held for held in self._places]

    def prepare(self, adapter_id: str, in_use: Collection[str | None]) -> None:
        """Gives an adapter a place in the stacks; places of adapters that are not `in_use` are taken first."""
        if adapter_id in self._places:
            return
        idle = [place for place, held in enumerate(self._places) if held is None or held not in in_use]
        if not idle:
            idle = [len(self._places)]
            self._places.append(None)
        # Stacks double, so that growing copies each adapter a few times only.
        room = 1 << (len(self._places) - 1).bit_length()
        for layer in self._layers:
            layer.put(idle[0], room, self.loaded[adapter_id].pairs)
        self._places[idle[0]] = adapter_id

    def arrange(self, tokens: Mapping[str | None, int]) -> list[str | None]:
        """Plans the next forward pass; returns in which order the adapters' tokens must stand.

        Args:
            tokens: Number of tokens of each adapter, all of them prepared; None stands for the base model.
        """
        order = sorted((a for a in tokens if a is not None), key=self._places.index)
        spans: list[Span] = []
        start = 0
        for adapter in order:
            place, count = self._places.index(adapter), tokens[adapter]
            last = spans[-1] if spans else None
            if last and count == 1 and last.stop - last.start == last.places and last.place + last.places == place:
                spans[-1] = Span(last.place, last.places + 1, last.start, start + 1)
            else:
                spans.append(Span(place, 1, start, start + count))
            start += count
        self.current.spans = spans
        return [*order, *([None] if None in tokens else [])]
