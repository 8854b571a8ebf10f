"""One decoder layer as one operation of autograd: what it computes, and its gradient, by hand.

Products with adapters belong in `products.py`, who sees whom in `attention.py`.
"""

from typing import Any, NamedTuple

import torch
from torch.nn.functional import silu

from finetune_platform.training.fused import attention
from finetune_platform.training.fused.attention import Attended
from finetune_platform.training.fused.heads import Heads
from finetune_platform.training.fused.products import Product
from finetune_platform.training.packed_attention import Layout


class Norm(NamedTuple):
    """Root mean square normalisation (Zhang and Sennrich 2019) with a frozen weight."""

    weight: torch.Tensor
    eps: float

    def forward(self, x: torch.Tensor, out: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """The normalised `x`, written to `out`, and the factors (…, 1) that did it, in float32."""
        size = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        factor = size.square_().div_(x.shape[-1]).add_(self.eps).rsqrt_()
        if x.dtype == torch.float32:
            return torch.mul(x, factor, out=out).mul_(self.weight), factor
        # As transformers does: the product in float32, its result in the model's format, then the weight.
        return torch.mul((x.float() * factor).to(x.dtype), self.weight, out=out), factor

    def backward(self, gradient: torch.Tensor, x: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
        """The gradient of `x`."""
        scaled = gradient.float() * self.weight
        along = torch.linalg.vecdot(scaled, x.float())[..., None].mul_(factor.pow(3)).div_(-x.shape[-1])
        return scaled.mul_(factor).addcmul_(x, along).to(x.dtype)


class Rotation(NamedTuple):
    """Rotary position embedding (Su et al. 2021), halves side by side: (tokens, 1, width / 2) each."""

    cos: torch.Tensor
    sin: torch.Tensor

    def turn(self, x: torch.Tensor, back: bool = False) -> None:
        """Turns (tokens, heads, width) in place, or back again."""
        first, second = x.chunk(2, -1)
        kept = first.clone()
        sign = -1.0 if back else 1.0
        first.mul_(self.cos).addcmul_(second, self.sin, value=-sign)
        second.mul_(self.cos).addcmul_(kept, self.sin, value=sign)


class Layer(NamedTuple):
    """The parts of one layer; norms of queries and keys where the model has them, `turns` where it turns them."""

    before_attention: Norm
    queries_keys_values: Product
    query_norm: Norm | None
    key_norm: Norm | None
    turns: bool
    heads: Heads
    out: Product
    before_mlp: Norm
    gate_and_up: Product
    down: Product

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        products = (self.queries_keys_values, self.out, self.gate_and_up, self.down)
        return [weight for product in products for weight in product.parameters]

    def __call__(
        self, x: torch.Tensor, rotation: Rotation, layout: Layout, kept: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The layer's output, (tokens, hidden).

        Args:
            x: Its input.
            rotation: Of every token.
            layout: Who sees whom.
            kept: (n,) the tokens whose output is wanted, in the last layer; None for all.
        """
        result: torch.Tensor = _LayerFunction.apply(x, self, rotation, layout, kept, *self.parameters)
        return result


class _LayerFunction(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        layer: Layer,
        rotation: Rotation,
        layout: Layout,
        kept: torch.Tensor | None,
        *parameters: torch.Tensor,
    ) -> torch.Tensor:
        read = layer.queries_keys_values.room(len(x), x)
        _, factor = layer.before_attention.forward(x, read[:, : x.shape[1]])
        qkv = layer.queries_keys_values.forward(read).view(len(x), -1, layer.heads.width)
        unnormed, of_heads = _turned(layer, qkv, rotation)
        attended = attention.forward(qkv, layout, layer.heads)
        said, stay = attended.out.flatten(1), x
        if kept is not None:
            said, stay = said.index_select(0, kept), x.index_select(0, kept)
        told = layer.out.room(len(said), said)
        told[:, : said.shape[1]] = said
        middle = layer.out.forward(told).add_(stay)
        asked = layer.gate_and_up.room(len(middle), middle)
        _, second = layer.before_mlp.forward(middle, asked[:, : x.shape[1]])
        both = layer.gate_and_up.forward(asked)
        gate, up = both.chunk(2, -1)
        answered, opened = layer.down.room(len(middle), middle), silu(gate)
        torch.mul(opened, up, out=answered[:, : gate.shape[1]])
        out = layer.down.forward(answered).add_(middle)
        ctx.layer, ctx.rotation, ctx.layout, ctx.kept = layer, rotation, layout, kept
        ctx.save_for_backward(
            x,
            read,
            factor,
            qkv,
            told,
            middle,
            asked,
            second,
            both,
            opened,
            answered,
            unnormed,
            of_heads,
            attended.out,
            *attended.kept,
        )
        return out

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        layer: Layer = ctx.layer
        x, read, factor, qkv, told, middle, asked, second, both, opened, answered, unnormed, of_heads, out, *kept = (
            ctx.saved_tensors
        )
        gate, up = both.chunk(2, -1)
        hidden, of_down = layer.down.backward(gradient, answered)
        gate_and_up = torch.empty_like(both)
        to_gate, to_up = gate_and_up.chunk(2, -1)
        torch.mul(hidden, opened, out=to_up)
        torch.ops.aten.silu_backward.grad_input(hidden.mul_(up), gate, grad_input=to_gate)
        back, of_gate_and_up = layer.gate_and_up.backward(gate_and_up, asked)
        at_middle = layer.before_mlp.backward(back, middle, second).add_(gradient)
        back, of_out = layer.out.backward(at_middle, told)
        if ctx.kept is not None:
            back = x.new_zeros(len(x), back.shape[1]).index_copy_(0, ctx.kept, back)
            at_middle = torch.zeros_like(x).index_copy_(0, ctx.kept, at_middle)
        back = attention.backward(back.view_as(out), qkv, Attended(out, kept), ctx.layout, layer.heads)
        _turned_back(layer, back, ctx.rotation, unnormed, of_heads)
        back, of_qkv = layer.queries_keys_values.backward(back.flatten(1), read)
        at_input = layer.before_attention.backward(back, x, factor).add_(at_middle) if ctx.needs_input_grad[0] else None
        return at_input, None, None, None, None, *of_qkv, *of_out, *of_gate_and_up, *of_down


def _turned(layer: Layer, qkv: torch.Tensor, rotation: Rotation) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Normalises and turns queries and keys in place; what they were, and the factors, where they are normalised."""
    heads, unnormed, factors = layer.heads, None, None
    turned = qkv[:, : heads.queries + heads.groups]
    if layer.query_norm is not None and layer.key_norm is not None:
        unnormed = turned.clone()
        queries, keys = unnormed.split([heads.queries, heads.groups], 1)
        _, of_queries = layer.query_norm.forward(queries, turned[:, : heads.queries])
        _, of_keys = layer.key_norm.forward(keys, turned[:, heads.queries :])
        factors = torch.cat([of_queries, of_keys], 1)
    if layer.turns:
        rotation.turn(turned)
    return unnormed, factors


def _turned_back(
    layer: Layer,
    back: torch.Tensor,
    rotation: Rotation,
    unnormed: torch.Tensor | None,
    factors: torch.Tensor | None,
) -> None:
    """The gradient of `qkv` before `_turned`, in place."""
    heads = layer.heads
    turned = back[:, : heads.queries + heads.groups]
    if layer.turns:
        rotation.turn(turned, back=True)
    if layer.query_norm is not None and layer.key_norm is not None and unnormed is not None and factors is not None:
        n = heads.queries
        turned[:, :n] = layer.query_norm.backward(turned[:, :n], unnormed[:, :n], factors[:, :n])
        turned[:, n:] = layer.key_norm.backward(turned[:, n:], unnormed[:, n:], factors[:, n:])
