"""The processes that train one adapter together: who computes which rows of a step, and how their sums meet.

Every process holds the whole model and the whole plan and takes the same steps; the first one alone writes, logs and
publishes. How they are started belongs in `start_processes.py`; one process is a company of one, at no cost.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from finetune_platform.settings import Launched

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

BUCKET = 1 << 24
"""Numbers that travel together: 64 MB in float32."""


class Processes(NamedTuple):
    """This process among those of its run; all of them make the same calls in the same order.

    Attributes:
        rank: From 0.
        size: How many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is the one that speaks for all."""
        return self.rank == 0

    def share(self, batches: Sequence[Sequence[int]], tokens: Sequence[int]) -> list[tuple[int, ...]]:
        """This process's part of a step's forward passes: about as many tokens as every other's, rows left whole.

        Args:
            batches: Row numbers of each pass of the step. One that belongs to two processes is cut.
            tokens: Of every row.
        """
        total, before, mine = sum(tokens[i] for batch in batches for i in batch), 0, []
        for batch in batches:
            part = []
            for row in batch:
                if (2 * before + tokens[row]) * self.size // (2 * total) == self.rank:
                    part.append(row)
                before += tokens[row]
            if part:
                mine.append(tuple(part))
        return mine

    def sums(self, *values: float) -> list[float]:
        """Each value's sum over all processes."""
        if self.size == 1:
            return list(values)
        import torch

        summed = torch.tensor(values, dtype=torch.float64)
        torch.distributed.all_reduce(summed)
        return list(summed.tolist())

    def add_gradients(self, parameters: Sequence["torch.nn.Parameter"]) -> None:
        """Leaves the sum over all processes in every gradient; added in float32."""
        if self.size == 1:
            return
        import torch

        for bucket in _buckets(parameters):
            gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in bucket]
            flat = torch.cat([g.flatten().float() for g in gradients])
            torch.distributed.all_reduce(flat)
            parts = flat.split([g.numel() for g in gradients])
            for parameter, part in zip(bucket, parts, strict=True):
                parameter.grad = part.view_as(parameter).to(parameter.dtype)

    def gather(self, value: T) -> list[T]:
        """Every process's value, in the order of their ranks, at every one of them."""
        if self.size == 1:
            return [value]
        import torch

        values: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(values, value)
        return values

    def wait(self) -> None:
        """Until all processes are here."""
        self.sums(0.0)  # A sum over nothing waits for nobody.


ALONE = Processes()


@contextmanager
def joined(launched: Launched) -> Iterator[Processes]:
    """This process's company: that of which its launcher told it, or none.

    Args:
        launched: What the launcher said. On a machine with GPUs each process takes the one of its local number.
    """
    if launched.world_size == 1:
        yield ALONE
        return
    import torch

    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(launched.local_rank)
        backend = "cpu:gloo,cuda:nccl"
    torch.distributed.init_process_group(backend)
    try:
        yield Processes(launched.rank, launched.world_size)
    finally:
        torch.distributed.destroy_process_group()


def _buckets(parameters: Sequence["torch.nn.Parameter"]) -> Iterator[list["torch.nn.Parameter"]]:
    bucket: list[torch.nn.Parameter] = []
    for parameter in parameters:
        if bucket and sum(p.numel() for p in bucket) + parameter.numel() > BUCKET:
            yield bucket
            bucket = []
        bucket.append(parameter)
    yield bucket
