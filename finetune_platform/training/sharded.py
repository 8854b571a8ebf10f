"""A base model that is divided among the processes that train it (FSDP): each holds a part of every weight.

A layer is gathered while it computes, forward and backward, so that no process ever holds the whole model. What an
adapter trains is small and stays whole at every process; where all weights are trained, each process has the gradient
of its parts and moves those. Who computes which rows, and that all take as many passes, belongs in `processes.py`.
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
    import torch
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

    for parameter in whole:
        parameter.data = parameter.data.to(device)
    for module in (*layers_of(base), base):
        added = MixedPrecisionPolicy(reduce_dtype=torch.float32)
        fully_shard(module, mesh=mesh, ignored_params=set(whole), mp_policy=added)
        # Sums, not means: the loss is divided by the weight of the whole step already.
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)
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

    A weight that is trained has a gradient then, which is added up in float32; those of an adapter are not divided.

    Args:
        base: Of transformers, divided or not, or its skeleton.
    """
    layers, adapter = layers_of(base), not all(p.requires_grad for p in base.parameters())
    sizes = [_bytes_of(layer, adapter) for layer in layers]
    return _bytes_of(base, adapter) - sum(sizes) + min(LAYERS_AT_ONCE, len(layers)) * max(sizes)


def _bytes_of(module: Any, adapter: bool) -> int:
    divided = [p for p in module.parameters() if not (adapter and p.requires_grad)]
    return sum(p.numel() * (p.element_size() if adapter else 2 * p.element_size() + 4) for p in divided)


def part(tensor: "torch.Tensor") -> "torch.Tensor":
    """This process's part of a divided tensor, in the same memory; another tensor itself."""
    import torch
    from torch.distributed.tensor import DTensor

    if not isinstance(tensor, DTensor):
        return tensor
    with torch.no_grad():
        return tensor.to_local().detach()


def part_like(tensor: "torch.Tensor", other: "torch.Tensor") -> "torch.Tensor":
    """The part of a whole tensor that this process has of another of the same shape; all of it where that is whole."""
    from torch.distributed.tensor import DTensor

    if not isinstance(other, DTensor):
        return tensor
    mesh = other.device_mesh
    parts, mine = tensor.chunk(mesh.size()), mesh.get_local_rank()
    return parts[mine] if mine < len(parts) else tensor[:0]


def together(own: "torch.Tensor", other: "torch.Tensor") -> "torch.Tensor":
    """The whole tensor of which each process has a part, on the CPU of the first; nothing at the others.

    Args:
        own: This process's part.
        other: A divided tensor of the shape of the whole.
    """
    from torch.distributed.tensor import DTensor

    assert isinstance(other, DTensor)
    mesh = other.device_mesh
    divided = DTensor.from_local(own, mesh, other.placements, run_check=False, shape=other.shape, stride=other.stride())
    whole = divided.full_tensor()
    # A slice would keep all of it in memory.
    return whole.cpu() if mesh.get_rank() == 0 else whole.new_empty(0)


def weights_together(base: Any) -> "dict[str, torch.Tensor] | None":
    """All weights of a model of transformers that is divided, at the first process; all of them must ask.

    Returns:
        By name, on the CPU; nothing in them at other processes. None of a model whose weights are whole, or frozen.
    """
    if not is_sharded(base) or not all(p.requires_grad for p in base.parameters()):
        return None
    named = base.state_dict(keep_vars=True)
    ids = {id(weight): weight for weight in named.values()}
    wholes = {key: weight if part(weight) is weight else together(part(weight), weight) for key, weight in ids.items()}
    return {name: wholes[id(weight)] for name, weight in named.items()}


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
    import torch
    from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy

    for module in base.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
            for group in module._get_fsdp_state()._fsdp_param_groups:
                group.mp_policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
                group._init_mp_dtypes()
                for weight in group.fsdp_params:
                    weight.all_gather_outputs = []
                    vars(weight).pop("_unsharded_param", None)
