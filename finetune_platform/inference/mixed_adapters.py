"""LoRA for a batch whose tokens belong to different adapters: every linear layer of the model, wrapped once.

Adapters in use stand side by side in one stack a layer, so that neighbours with one token each are one batched
product; all others get two products of their own. Reading adapters from disk belongs in `adapter_files.py`.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import torch

from finetune_platform.inference.adapter_files import AdapterWeights
from finetune_platform.inference.packed_linear import PackedLinear, is_packable


class Span(NamedTuple):
    """Neighbouring tokens `start` to `stop` of the batch.

    With one place, all of them use its adapter; with several, there is one token for each place in turn.
    """

    place: int
    places: int
    start: int
    stop: int


class CurrentPlan:
    """What the wrapped layers look at; set before each forward pass. Tokens in no span use no adapter."""

    def __init__(self) -> None:
        self.spans: Sequence[Span] = ()


class AdaptedLinear(torch.nn.Module):
    """A linear layer, plus what each token's adapter adds: x A B, the scaling folded into B.

    Args:
        linear: The base model's layer.
        current: Holds the plan of the running batch.
    """

    def __init__(self, linear: torch.nn.Linear, current: CurrentPlan) -> None:
        super().__init__()
        self.shape = linear.in_features, linear.out_features
        self.current = current
        self.down = linear.weight.new_zeros(0, linear.in_features, 0)  # A of each place: (places, inputs, rank)
        self.up = linear.weight.new_zeros(0, 0, linear.out_features)  # B of each place: (places, rank, outputs)
        self.linear = PackedLinear(linear.weight, linear.bias) if is_packable(linear) else linear

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.linear(x)
        if not self.down.numel():
            return y
        tokens, out = x.view(-1, x.shape[-1]), y.view(-1, y.shape[-1])
        for place, places, start, stop in self.current.spans:
            if places == 1:
                out[start:stop].addmm_(tokens[start:stop] @ self.down[place], self.up[place])
            else:
                inner = torch.bmm(tokens[start:stop, None], self.down[place : place + places])
                out[start:stop, None].baddbmm_(inner, self.up[place : place + places])
        return y

    def put(self, place: int, places: int, pair: tuple[torch.Tensor, torch.Tensor] | None) -> None:
        """Writes A (inputs, rank) and B (rank, outputs) at `place` of `places`; None: nothing is added there."""
        held, held_rank = self.down.shape[0], self.down.shape[2]
        rank = max(held_rank, 0 if pair is None else pair[0].shape[1])
        if rank == 0:
            return
        if held < places or held_rank < rank:
            down = self.down.new_zeros(max(places, held), self.down.shape[1], rank)
            up = self.up.new_zeros(max(places, held), rank, self.up.shape[2])
            down[:held, :, :held_rank] = self.down
            up[:held, :held_rank] = self.up
            self.down, self.up = down, up
        own = 0 if pair is None else pair[0].shape[1]
        if pair is not None:
            self.down[place, :, :own], self.up[place, :own] = pair
        self.up[place, own:] = 0  # what an earlier adapter left in `down` is then multiplied by nothing


class MixedAdapters:
    """The adapters of one model: those loaded, and the places of those in use.

    Args:
        model: Its linear layers are replaced, except the output layer, which sees other tokens than the rest.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self.current = CurrentPlan()
        self.layers: dict[str, AdaptedLinear] = {}
        self.loaded: dict[str, AdapterWeights] = {}
        self._places: list[str | None] = []
        output = model.get_output_embeddings()
        for name, module in list(model.named_modules()):
            if isinstance(module, torch.nn.Linear) and module is not output:
                self.layers[name] = AdaptedLinear(module, self.current)
                parent, _, child = name.rpartition(".")
                setattr(model.get_submodule(parent), child, self.layers[name])

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """Inputs and outputs of every layer that an adapter may change."""
        return {name: layer.shape for name, layer in self.layers.items()}

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
        for name, layer in self.layers.items():
            layer.put(idle[0], room, self.loaded[adapter_id].pairs.get(name))
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
