"""The whole decoder of fused layers over a PEFT model's weights, and which models may be computed so."""

from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from finetune_platform.inference.decoder import MODEL_TYPES
from finetune_platform.training.fused.heads import Heads
from finetune_platform.training.fused.layer import Layer, Norm, Rotation
from finetune_platform.training.fused.products import Product
from finetune_platform.training.packed_attention import Layout


def against_fusing(model: Any) -> str | None:
    """Why a PEFT model is computed by transformers' modules, or None where `FusedDecoder` computes it."""
    from peft.tuners.lora import Linear

    config = model.get_base_model().config
    ropes = getattr(config, "rope_parameters", None) or {}
    reasons = {
        f"the architecture {config.model_type}": config.model_type not in MODEL_TYPES,
        f"the activation {config.hidden_act}": config.hidden_act != "silu",
        "a part of each head without rotation": ropes.get("partial_rotary_factor", 1.0) != 1.0,
        "dropout in attention": bool(getattr(config, "attention_dropout", 0.0)),
        "a device other than a CPU": model.device.type != "cpu",
    }
    for module in model.modules():
        if isinstance(module, Linear):
            reasons |= {
                "several adapters": list(module.lora_A) != ["default"],
                "DoRA": "default" in module.lora_variant,
                "dropout in the adapter": not isinstance(module.lora_dropout["default"], torch.nn.Identity),
                "an adapter in another number format": module.lora_A["default"].weight.dtype
                != module.base_layer.weight.dtype,
                "a bias in the adapter": module.lora_B["default"].bias is not None,
                "a quantised base": type(module.base_layer) is not torch.nn.Linear,
            }
        if any(reasons.values()):
            break
    return next((reason for reason, holds in reasons.items() if holds), None)


class FusedDecoder:
    """Token ids in, hidden states of some of them out.

    Args:
        model: A PEFT model that `against_fusing` has nothing against. It keeps its weights, as views of wider matrices.

    Attributes:
        checkpointing: Whether layers keep their input only and are computed again for the gradient.
    """

    def __init__(self, model: Any) -> None:
        base = model.get_base_model()
        config = base.config
        queries, groups = config.num_attention_heads, config.num_key_value_heads
        self.width = getattr(config, "head_dim", None) or config.hidden_size // queries
        self.base, self.checkpointing = base, False
        self.layers = [self._layer(layer, queries, groups) for layer in base.model.layers]

    def __call__(
        self, input_ids: torch.Tensor, position_ids: torch.Tensor, layout: Layout, positions: torch.Tensor
    ) -> torch.Tensor:
        """(n, hidden), after the last norm.

        Args:
            input_ids: (1, tokens), packed.
            position_ids: Like it.
            layout: Who sees whom.
            positions: (n,) the tokens that are wanted.
        """
        decoder = self.base.model
        x = decoder.embed_tokens(input_ids)[0]
        cos, sin = (part[0, :, None, : self.width // 2] for part in decoder.rotary_emb(x[None], position_ids))
        rotation = Rotation(cos, sin)
        for layer in self.layers[:-1]:
            if self.checkpointing and torch.is_grad_enabled():
                x = checkpoint(layer, x, rotation, layout, use_reentrant=False)
            else:
                x = layer(x, rotation, layout)
        # A token that is supervised twice is computed once.
        wanted, places = positions.unique(return_inverse=True)
        normed: torch.Tensor = decoder.norm(self.layers[-1](x, rotation, layout, wanted))
        return normed.index_select(0, places)

    def _layer(self, layer: Any, queries: int, groups: int) -> Layer:
        attention = layer.self_attn
        with_norms = self.base.config.model_type == "qwen3"
        return Layer(
            _norm(layer.input_layernorm),
            Product([attention.q_proj, attention.k_proj, attention.v_proj]),
            _norm(attention.q_norm) if with_norms else None,
            _norm(attention.k_norm) if with_norms else None,
            bool(getattr(attention, "use_rope", True)),
            Heads(queries, groups, self.width, float(attention.scaling)),
            Product([attention.o_proj]),
            _norm(layer.post_attention_layernorm),
            Product([layer.mlp.gate_proj, layer.mlp.up_proj]),
            Product([layer.mlp.down_proj]),
        )


def _norm(module: Any) -> Norm:
    return Norm(module.weight.detach(), float(module.variance_epsilon))
