"""A trainer that kills itself, by SIGKILL, at a named point of its work. Fixtures belong in conftest.py.

It runs in processes that are forked from one with torch, transformers and MLflow imported: twenty starts in a minute.
"""

import math
import multiprocessing
import os
import random
import signal
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from company import PRELOADED

Place = Literal["step", "write", "upload", "before manifest", "after manifest", "clean up", "result"]


class Point(NamedTuple):
    """Where a process dies: at a place of the work on step `step`; in an upload at file `file`, from 0."""

    place: Place
    step: int
    file: int = 0


def points(count: int, steps: int, save_steps: int, seed: int) -> list[Point]:
    """Random points in order, at most one a step, every place of a checkpoint among them, the last in the result."""
    chance = random.Random(seed)
    places: list[Place] = ["write", "upload", "before manifest", "after manifest", "clean up"]
    saved = sorted(chance.sample(range(2 * save_steps, steps, save_steps), min(count // 2, steps // save_steps - 2)))
    chosen = {step: Point(places[i % len(places)], step, chance.randrange(4)) for i, step in enumerate(saved)}
    # Where nothing is to be cleaned up a process dies one step later; the next one must come further.
    others = [step for step in range(2, steps) if step % save_steps > 1]
    for step in chance.sample(others, count - 1 - len(chosen)):
        chosen[step] = Point("step", step)
    return [*(chosen[step] for step in sorted(chosen)), Point("result", steps, chance.randrange(4))]


def run_until(point: Point | None, arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """The exit code of a trainer that dies at `point`; -9 once it has."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    process = context.Process(target=_train, args=(point, list(arguments), dict(environment)))
    process.start()
    process.join(120)
    assert process.exitcode is not None, "the trainer hangs"
    return process.exitcode


def _train(point: Point | None, arguments: list[str], environment: dict[str, str]) -> None:
    os.environ.update(environment)
    import torch

    from finetune_platform.training import attempts
    from finetune_platform.training.__main__ import main

    torch.set_num_threads(1)
    # Every step is told: the points lie closer together than a real trainer's marks.
    attempts.SHARE_OF_TIME = math.inf
    if point is not None:
        _arm(point)
    raise SystemExit(main(arguments))


def _arm(point: Point) -> None:
    """Puts the trap into the code on the way to the point."""
    import torch

    from finetune_platform.lake import Lake
    from finetune_platform.training import checkpoints, run

    folder = "/adapter/" if point.place == "result" else f"/step-{point.step:06d}/"
    if point.place == "step":
        _before(run.LossWatch, "see", lambda watch, loss: watch._seen == point.step - 1)
    elif point.place == "write":
        _before(torch, "save", _at_call(point.step, run))
    elif point.place in ("upload", "result"):
        calls: list[str] = []

        def reached(lake: Lake, file: Any, path: str) -> bool:
            calls.extend([path] if folder in f"/{path}" else [])
            return len(calls) > min(point.file, 1 if point.place == "result" else 2)

        _before(Lake, "_upload", reached)
    elif point.place == "before manifest":
        _before(Lake, "put_new", lambda lake, path, data: folder in path)
    elif point.place == "after manifest":
        _before(checkpoints, "complete_steps", _at_call(point.step, run))
    else:
        _before(Lake, "_delete_all", lambda lake, paths: not any("manifest" in path for path in paths))
        _before(run.LossWatch, "see", lambda watch, loss: watch._seen == point.step)


def _at_call(step: int, run: Any) -> Callable[..., bool]:
    """Whether the checkpoint under way is that of `step`."""
    seen: list[int] = []
    original = run.LossWatch.see

    def see(watch: Any, loss: float) -> None:
        original(watch, loss)
        seen.append(watch._seen)

    run.LossWatch.see = see
    return lambda *_, **__: bool(seen) and seen[-1] == step


def _before(owner: Any, name: str, here: Callable[..., bool]) -> None:
    original = getattr(owner, name)

    def trapped(*arguments: Any, **keywords: Any) -> Any:
        if here(*arguments, **keywords):
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **keywords)

    setattr(owner, name, trapped)
