"""The forward pass of a decoder for a line of tokens, with as few operations as it can have.

transformers' own takes a model apart into modules of a few small operations each: on a CPU, for a few tokens at a time,
a third of the time goes into calling them. Here layers that read the same input are one product, and queries and keys
are turned to their positions together. Weights and configuration are those of transformers' model.
"""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.nn.functional import rms_norm, silu

from finetune_platform.errors import PermanentError
from finetune_platform.inference.mixed_adapters import AdaptedLinear, MixedAdapters
from finetune_platform.inference.packed_linear import product_of
from finetune_platform.inference.ragged_attention import Step, attend

MODEL_TYPES = frozenset({"llama", "qwen2", "qwen3", "mistral", "smollm3"})
"""Architectures that are what `Decoder` computes; tests compare each with transformers' own."""


class _Norm(NamedTuple):
    weight: torch.Tensor
    eps: float

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return rms_norm(x, self.weight.shape, self.weight, self.eps)

    @classmethod
    def of(cls, module: Any) -> "_Norm":
        return cls(module.weight.detach(), float(module.variance_epsilon))


class _Layer(NamedTuple):
    before_attention: _Norm
    queries_keys_values: AdaptedLinear
    query_norm: _Norm | None
    key_norm: _Norm | None
    turns: bool
    scaling: float
    out: AdaptedLinear
    before_mlp: _Norm
    gate_and_up: AdaptedLinear
    down: AdaptedLinear


def check(config: Any, folder: Path) -> None:
    """Refuses what `Decoder` does not compute, before weights are read.

    Args:
        config: transformers' configuration of the model.
        folder: Where it comes from, for the message.

    Raises:
        PermanentError: An architecture that is not known.
    """
    ropes = getattr(config, "rope_parameters", None) or {}
    other = {
        "architecture": config.model_type not in MODEL_TYPES,
        "sliding_window": bool(getattr(config, "sliding_window", None)),
        "hidden_act": getattr(config, "hidden_act", "silu") != "silu",
        "partial_rotary_factor": ropes.get("partial_rotary_factor", 1.0) != 1.0,
    }
    unknown = [name for name, differs in other.items() if differs]
    if unknown:
        raise PermanentError(
            f"{folder}: the in-process engine does not know {config.model_type} with its {', '.join(unknown)}",
            f"use one of {', '.join(sorted(MODEL_TYPES))}, or another engine",
        )


class Decoder:
    """A causal language model: token ids in, logits out.

    Args:
        model: transformers' model, in its final number format and place. Its layers' weights are taken out of it.
        adapters: What is added to its linear layers.
    """

    def __init__(self, model: Any, adapters: MixedAdapters) -> None:
        config = model.config
        heads, groups = config.num_attention_heads, config.num_key_value_heads
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
        self.heads, self.groups, self.head_dim = heads, groups, head_dim
        self.embedding: torch.Tensor = model.get_input_embeddings().weight.detach()
        self.rotary = model.model.rotary_emb
        self.last_norm = _Norm.of(model.model.norm)
        self.output = product_of([model.get_output_embeddings()])
        self.layers = [self._layer(number, layer, adapters) for number, layer in enumerate(model.model.layers)]

    def __call__(self, ids: torch.Tensor, step: Step, continued: torch.Tensor) -> torch.Tensor:
        """Logits of the tokens that are continued, (continued, vocabulary).

        Args:
            ids: The line's tokens, (tokens,).
            step: Its rows.
            continued: Where in the line these tokens stand.
        """
        x = self.embedding[ids]
        cos, sin = (part[0, :, None] for part in self.rotary(x[None], step.positions[None]))
        for number, layer in enumerate(self.layers):
            x += layer.out(self._attended(number, layer, layer.before_attention(x), cos, sin, step))
            gate, up = layer.gate_and_up(layer.before_mlp(x)).chunk(2, -1)
            x += layer.down(silu(gate).mul_(up))
        logits: torch.Tensor = self.output(self.last_norm(x[continued]))
        return logits

    def _attended(
        self, number: int, layer: _Layer, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, step: Step
    ) -> torch.Tensor:
        parts = layer.queries_keys_values(x).view(len(x), -1, self.head_dim)
        turned, values = parts[:, : -self.groups], parts[:, -self.groups :]
        if layer.query_norm is not None and layer.key_norm is not None:
            normed = (layer.query_norm(turned[:, : self.heads]), layer.key_norm(turned[:, self.heads :]))
            turned = torch.cat(normed, 1)
        if layer.turns:
            turned = rotated(turned, cos, sin)
        return attend(number, turned[:, : self.heads], turned[:, self.heads :], values, step, layer.scaling)

    def _layer(self, number: int, layer: Any, adapters: MixedAdapters) -> _Layer:
        def together(*names: str) -> AdaptedLinear:
            return adapters.adapted({f"model.layers.{number}.{name}": layer.get_submodule(name) for name in names})

        attention = layer.self_attn
        built = _Layer(
            _Norm.of(layer.input_layernorm),
            together("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
            _Norm.of(attention.q_norm) if hasattr(attention, "q_norm") else None,
            _Norm.of(attention.k_norm) if hasattr(attention, "k_norm") else None,
            bool(getattr(attention, "use_rope", True)),
            float(attention.scaling),
            together("self_attn.o_proj"),
            _Norm.of(layer.post_attention_layernorm),
            together("mlp.gate_proj", "mlp.up_proj"),
            together("mlp.down_proj"),
        )
        for module in layer.modules():
            if isinstance(module, torch.nn.Linear):
                module.weight = torch.nn.Parameter(module.weight.new_empty(0), requires_grad=False)
        return built


def rotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary position embedding (Su et al. 2021), halves side by side.

    Args:
        x: (tokens, heads, dim).
        cos: (tokens, 1, dim), both halves alike; `sin` likewise.
    """
    half = x.shape[-1] // 2
    out = x * cos
    out[..., :half].addcmul_(x[..., half:], sin[..., :half], value=-1)
    out[..., half:].addcmul_(x[..., :half], sin[..., half:])
    return out
