"""A base model that is divided among the processes that train it (FSDP): each holds a part of every weight.

A layer is gathered while it computes, forward and backward, so that no process ever holds the whole model. What an
adapter trains is small and stays whole at every process. Who computes which rows, and that all take as many passes,
belongs in `processes.py`.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from finetune_platform.errors import PermanentError

if TYPE_CHECKING:
    import torch
    from torch.distributed.device_mesh import DeviceMesh

T = TypeVar("T")

LAYERS_AT_ONCE = 3
"""Layers that a process holds whole: the one that computes, the next one on its way, and what both arrive in."""


def mesh_of(device: str, processes: int) -> "DeviceMesh":
    """All processes of a run in a row; every one of them must ask for it at the same time."""
    from torch.distributed.device_mesh import init_device_mesh

    return init_device_mesh(device, (processes,))


def shard(base: Any, whole: "Sequence[torch.nn.Parameter]", device: str, mesh: "DeviceMesh") -> None:
    """Leaves this process its part of a model of transformers, on its device.

    Args:
        base: Loaded whole on the CPU; it may have an adapter in it.
        whole: What stays whole, and gets gradients as without this.
        device: `cuda` or `cpu`.
        mesh: Of the processes.

    Raises:
        PermanentError: Its layers are not known.
    """
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    for parameter in whole:
        parameter.data = parameter.data.to(device)
    for module in (*layers_of(base), base):
        fully_shard(module, mesh=mesh, ignored_params=set(whole))
    # The loss reads the output layer's weights itself, and they are whole in a forward method only.
    base.with_root_gathered = _call
    register_fsdp_forward_method(base, "with_root_gathered")


def layers_of(base: Any) -> list[Any]:
    """The layers of a model of transformers, one after the other.

    Raises:
        PermanentError: There is no list of them.
    """
    import torch

    count = base.config.get_text_config().num_hidden_layers
    for module in base.get_decoder().modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == count:
            return list(module)
    raise PermanentError(
        f"training.fsdp: {type(base).__name__} has no list of its {count} layers, by which it would be divided",
        "leave training.fsdp out, or use a base model with plain decoder layers",
    )


def is_sharded(base: Any) -> bool:
    """Whether a model of transformers is divided among processes."""
    from torch.distributed.fsdp import FSDPModule

    return isinstance(base, FSDPModule)


def with_root_gathered(base: Any, compute: Callable[[], T]) -> T:
    """What `compute` gives while embeddings, last norm and output layer are whole; it may send tokens through layers.

    Args:
        base: A model of transformers, divided or not.
        compute: Gives a tensor whose gradient may be asked for.
    """
    import torch

    if not is_sharded(base):
        return compute()
    given: T = base.with_root_gathered(compute)
    if not torch.is_grad_enabled():
        # Else they stay whole until a backward pass, and are not gathered again: but a process that writes its weights
        # lets them go, and would then wait for the others.
        base.reshard()
    return given


def _call(compute: Callable[[], T]) -> T:
    return compute()


def gathered_bytes(base: Any) -> int:
    """The most that a process holds beyond its own part: layers that are whole for a moment, and the rest.

    Args:
        base: Of transformers, divided or not, or its skeleton.
    """
    layers = layers_of(base)
    sizes = [_bytes_of(layer) for layer in layers]
    return _bytes_of(base) - sum(sizes) + min(LAYERS_AT_ONCE, len(layers)) * max(sizes)


def _bytes_of(module: Any) -> int:
    return sum(p.numel() * p.element_size() for p in module.parameters() if not p.requires_grad)


@contextmanager
def gathered_in_float32(base: Any) -> Iterator[None]:
    """While it lasts layers are gathered in float32; the parts stay as they are. Without effect on a whole model."""
    import torch

    _gather_in(torch.float32, base)
    try:
        yield
    finally:
        _gather_in(None, base)


def _gather_in(dtype: "torch.dtype | None", base: Any) -> None:
    """FSDP takes the format that it gathers in once, before the first pass; so its layers are told anew.

    That is no documented interface (torch is pinned, and a test of preflight fails without it).
    """
    from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy

    for module in base.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
            for group in module._get_fsdp_state()._fsdp_param_groups:
                group.mp_policy = MixedPrecisionPolicy(param_dtype=dtype)
                group._init_mp_dtypes()
                for weight in group.fsdp_params:
                    weight.all_gather_outputs = []
                    vars(weight).pop("_unsharded_param", None)
