"""The states of every random number generator that training draws from, to continue a run as if it had not stopped.

Only the states belong here: seeding, taking and giving back.
"""

import random
from typing import Any


def random_state() -> dict[str, Any]:
    """The states of Python, NumPy, torch and every GPU, as tensors and plain values."""
    import numpy
    import torch

    generator = numpy.random.get_state(legacy=False)
    assert isinstance(generator, dict)
    keys = generator["state"]["key"].tolist()
    return {
        "python": random.getstate(),
        "numpy": {**generator, "state": {**generator["state"], "key": keys}},
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """Continues where `random_state` was taken; GPUs only where there are as many."""
    import numpy
    import torch

    random.setstate(state["python"])
    generator = state["numpy"]
    keys = numpy.array(generator["state"]["key"], dtype=numpy.uint32)
    numpy.random.set_state({**generator, "state": {**generator["state"], "key": keys}})
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] and torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([s.cpu() for s in state["cuda"]])


def seed_everything(seed: int) -> None:
    """Starts every generator from `seed`, so that what was drawn while preparing makes no difference."""
    import numpy
    import torch

    random.seed(seed)
    numpy.random.seed(seed)
    torch.manual_seed(seed)
