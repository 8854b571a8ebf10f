"""The processes that train one adapter together: who computes which rows of a step, and how their sums meet.

Every process holds the whole plan and takes the same steps; the first one alone writes, logs and publishes. How they
are started belongs in `start_processes.py`, how a model is divided among them in `sharded.py`; one process is a company
of one, at no cost.
"""

import platform
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from finetune_platform.settings import Launched

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

BUCKET = 1 << 24
"""Numbers that travel together: 64 MB in float32."""


class Pass(NamedTuple):
    """One forward pass of a process.

    Attributes:
        units: What it computes.
        counts: Whether they are this process's; else it is taken since the others take one, and its loss is nothing.
    """

    units: tuple[int, ...]
    counts: bool = True


class Processes(NamedTuple):
    """This process among those of its run; all of them make the same calls in the same order.

    Attributes:
        rank: From 0.
        size: How many there are.
        sharded: Whether the model is divided among them: then none can take a forward or backward pass alone.
    """

    rank: int = 0
    size: int = 1
    sharded: bool = False

    @property
    def leads(self) -> bool:
        """Whether this is the one that speaks for all."""
        return self.rank == 0

    @property
    def shards(self) -> int:
        """Into how many parts the model is divided."""
        return self.size if self.sharded else 1

    def share(self, batches: Sequence[Sequence[int]], tokens: Sequence[int]) -> list[Pass]:
        """This process's part of a step's forward passes: about as many tokens as every other's, rows left whole.

        Args:
            batches: Row numbers of each pass of the step. One that belongs to two processes is cut.
            tokens: Of every row.
        """
        if not self.sharded:
            return [Pass(part) for part in self._part(self.rank, batches, tokens)]
        parts = [self._part(rank, batches, tokens) for rank in range(self.size)]
        return self._as_many(parts, idle=min((row for batch in batches for row in batch), key=tokens.__getitem__))

    def deal(self, batches: Sequence[Sequence[int]]) -> list[Pass]:
        """This process's part of some forward passes of about equal size, of which the first is the shortest."""
        parts = [[tuple(batch) for batch in batches[rank :: self.size]] for rank in range(self.size)]
        return self._as_many(parts, idle=batches[0][0]) if batches else []

    def _part(self, process: int, batches: Sequence[Sequence[int]], tokens: Sequence[int]) -> list[tuple[int, ...]]:
        total, before, parts = sum(tokens[i] for batch in batches for i in batch), 0, []
        for batch in batches:
            part = []
            for row in batch:
                if (2 * before + tokens[row]) * self.size // (2 * total) == process:
                    part.append(row)
                before += tokens[row]
            if part:
                parts.append(tuple(part))
        return parts

    def _as_many(self, parts: Sequence[Sequence[tuple[int, ...]]], idle: int) -> list[Pass]:
        """This process's passes; where the model is divided, as many as the process takes that has the most."""
        mine = [Pass(part) for part in parts[self.rank]]
        missing = max(map(len, parts)) - len(mine) if self.sharded else 0
        return mine + [Pass((idle,), counts=False)] * missing

    def agree(self, asked: bool) -> bool:
        """Whether to leave out the next pass: of a divided model all do as soon as one is asked to."""
        return bool(self.sums(asked)[0]) if self.sharded else asked

    def one_by_one(self, act: Callable[[], T]) -> T:
        """What `act` gives; where the model is divided, done by one process of each machine at a time.

        It takes memory for the whole of a model, which a machine then has to have once.
        """
        if not self.sharded:
            return act()
        machines = self.gather(platform.node())
        mine = machines[: self.rank].count(machines[self.rank])
        given: list[T] = []
        for turn in range(max(Counter(machines).values())):
            if turn == mine:
                given.append(act())
            self.wait()
        return given[0]

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
