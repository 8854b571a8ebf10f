"""What does computing requests together gain? The in-process engine beside one `generate` at a time, on two cores.

    python bench/engine.py            # ten minutes; writes bench/results/engine.json
    python bench/engine.py --quick    # about a minute, the same code

Needs the adapter that `make demo` leaves in .finetune/. Requests are the demo's test rows, answered greedily in
float32, in turns: by transformers (and PEFT) one request at a time, by the engine with 16 clients that each wait for
their answer. Then 32 adapters, copies with small random changes, are asked in turn, beside one of them asked alone.
"Processor" ratios compare processor seconds instead of the clock's, for machines that others use too. `--json` prints
one object on the last line.
"""

import argparse
import asyncio
import itertools
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from reporting import finish

from finetune_platform.inference.base_models import load_tokenizer, resolve_base_model
from finetune_platform.inference.chat import LoadedAdapter
from finetune_platform.inference.in_process import InProcessEngine
from finetune_platform.lake import Lake
from finetune_platform.manifests import AdapterManifest, DatasetManifest
from finetune_platform.task_file import load_task

ROOT = Path(__file__).parent.parent
CLIENTS, ADAPTERS = 16, 32
GAIN, SHARE = 6.0, 0.8
"""The targets: least gain over one request at a time, least share of one adapter's throughput with 32 of them."""

TARGETS = {
    "trained adapter, gain": f">= {GAIN}",
    "trained adapter, equal answers": "all",
    "engineered prompt, equal answers": "all",
    "32 adapters, share of one adapter's throughput": f">= {SHARE}",
}


class Demo(NamedTuple):
    """What the demo left: a base model, a trained adapter, its rows."""

    base: Path
    adapter: Path
    system_prompt: str
    engineered_prompt: str
    sentences: list[list[dict[str, Any]]]


class Cost(NamedTuple):
    """Seconds a request, by the clock and by the processors."""

    clock: float
    processor: float


class Peer:
    """transformers' `generate`, with PEFT's model where there is an adapter: one request at a time.

    In a process of its own: two that compute in one process slow each other down, even in turns.
    """

    def __init__(self, base: Path, adapter: Path | None) -> None:
        spawning = multiprocessing.get_context("spawn")
        self._process = ProcessPoolExecutor(1, spawning, initializer=_load_peer, initargs=(base, adapter))

    def answer(self, chats: list[Any]) -> tuple[Cost, list[str]]:
        return self._process.submit(_answer_one_at_a_time, chats).result()

    def close(self) -> None:
        self._process.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, default=ROOT / ".finetune", help="the demo's folder")
    parser.add_argument("--quick", action="store_true", help="few requests, once")
    parser.add_argument("--json", action="store_true", help="one JSON object on the last line")
    args = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    with tempfile.TemporaryDirectory(prefix="finetune-bench-") as folder:
        demo = what_the_demo_left(args.home, Path(folder))
        figures = asyncio.run(measured(demo, Path(folder), args.quick))
    finish({"name": "engine", "figures": figures, "targets": TARGETS, "ok": met(figures)}, args.quick, args.json,
           ("torch", "transformers", "peft"))  # fmt: skip


async def measured(demo: Demo, folder: Path, quick: bool) -> dict[str, Any]:
    rounds, adapters = (1, 4) if quick else (3, ADAPTERS)
    figures: dict[str, Any] = {}
    engine = InProcessEngine(demo.base, dtype="float32", device="cpu", max_rows=CLIENTS)
    await engine.load(LoadedAdapter("trained", demo.adapter))
    for name, adapter, system, count in (
        ("trained adapter", "trained", demo.system_prompt, 12 if quick else 72),
        ("engineered prompt", None, demo.engineered_prompt, 4 if quick else 36),
    ):
        chats = [[{"role": "system", "content": system}, *sentence] for sentence in demo.sentences[:count]]
        peer = Peer(demo.base, demo.adapter if adapter else None)
        figures |= told(await side_by_side(name, engine, peer, chats, adapter, rounds))
        peer.close()
    for copy in range(adapters):
        await engine.load(LoadedAdapter(f"copy-{copy}", changed(demo.adapter, folder / f"copy-{copy}", copy)))
    figures |= told(await switching(engine, demo, [f"copy-{copy}" for copy in range(adapters)], rounds))
    await engine.close()
    return figures


def told(figures: dict[str, Any]) -> dict[str, Any]:
    """The figures, shown as soon as they are there: the whole takes a while."""
    for name, figure in figures.items():
        print(f"{name}: {figure}", flush=True)
    return figures


async def side_by_side(
    name: str, engine: InProcessEngine, peer: Peer, chats: list[Any], adapter: str | None, rounds: int
) -> dict[str, Any]:
    """In each round both answer the same chats: the peer once, the engine three times over."""
    theirs, ours, equal = [], [], 0
    for number in range(rounds):
        some = chats[number * len(chats) // rounds : (number + 1) * len(chats) // rounds]
        their_cost, their_answers = peer.answer(some)
        our_cost, our_answers = await clients(engine, some, [adapter], 3 * len(some))
        theirs.append(their_cost)
        ours.append(our_cost)
        equal += sum(a == b for a, b in zip(our_answers, their_answers, strict=True))
    clock, processor = statistics.mean(t.clock for t in theirs), statistics.mean(t.processor for t in theirs)
    our_clock, our_processor = statistics.mean(o.clock for o in ours), statistics.mean(o.processor for o in ours)
    return {
        f"{name}, one at a time, requests/s": round(1 / clock, 2),
        f"{name}, engine, requests/s": round(1 / our_clock, 2),
        f"{name}, gain": round(clock / our_clock, 2),
        f"{name}, processor gain": round(processor / our_processor, 2),
        f"{name}, equal answers": f"{equal} of {len(chats)}",
    }


async def switching(engine: InProcessEngine, demo: Demo, adapters: list[str], rounds: int) -> dict[str, Any]:
    """One adapter's throughput and that of all of them in turn, in turns."""
    chats = [[{"role": "system", "content": demo.system_prompt}, *sentence] for sentence in demo.sentences[:96]]
    await clients(engine, chats, adapters, len(adapters))  # shared prefixes are computed
    shares, processor = [], []
    for _ in range(rounds):
        one, _ = await clients(engine, chats, adapters[:1], 96)
        all_of_them, _ = await clients(engine, chats, adapters, 96)
        shares.append(one.clock / all_of_them.clock)
        processor.append(one.processor / all_of_them.processor)
    return {
        f"{len(adapters)} adapters, share of one adapter's throughput": round(statistics.median(shares), 3),
        f"{len(adapters)} adapters, processor share": round(statistics.median(processor), 3),
    }


async def clients(engine: InProcessEngine, chats: list[Any], adapters: list[Any], count: int) -> tuple[Cost, list[str]]:
    """Answers to all chats, from clients that each ask the next when they have their answer, over and over.

    The clock stops at the answer number `count`, while all other clients wait for theirs.
    """
    answers = [""] * len(chats)
    numbers, answered = itertools.count(), 0
    clock, processor = time.perf_counter(), time.process_time()
    measured: list[Cost] = []

    async def client() -> None:
        nonlocal answered
        while not measured:
            i = next(numbers)
            asked = {"messages": chats[i % len(chats)], "max_tokens": 96}
            answer = await engine.complete(asked, adapters[i % len(adapters)])
            answers[i % len(chats)] = answer["choices"][0]["message"]["content"]
            answered += 1
            if answered == count:
                measured.append(cost(clock, processor, count))

    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    return measured[0], answers


_peer: Any = None


def _load_peer(base: Path, adapter: Path | None) -> None:
    global _peer
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter)
    _peer = model.eval(), load_tokenizer(base)


def _answer_one_at_a_time(chats: list[Any]) -> tuple[Cost, list[str]]:
    import torch

    model, tokenizer = _peer
    answers: list[str] = []
    clock, processor = time.perf_counter(), time.process_time()
    for chat in chats:
        text = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
        out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=96, do_sample=False)
        answers.append(str(tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)))
    return cost(clock, processor, len(chats)), answers


def cost(clock: float, processor: float, count: int) -> Cost:
    return Cost((time.perf_counter() - clock) / count, (time.process_time() - processor) / count)


def changed(adapter: Path, folder: Path, seed: int) -> Path:
    """A copy of an adapter whose weights differ by about a percent."""
    import torch
    from safetensors.torch import load_file, save_file

    generator = torch.Generator().manual_seed(seed)
    folder.mkdir()
    (folder / "adapter_config.json").write_bytes((adapter / "adapter_config.json").read_bytes())
    weights = load_file(adapter / "adapter_model.safetensors")
    noisy = {n: w * (1 + 0.01 * torch.randn(w.shape, generator=generator)) for n, w in weights.items()}
    save_file(noisy, folder / "adapter_model.safetensors")
    return folder


def what_the_demo_left(home: Path, folder: Path) -> Demo:
    import pyarrow.parquet as pq

    task = load_task(ROOT / "tasks" / "contract_entities.yaml")
    lake = Lake(str(home / "lake"))
    kept = lake.list(f"{task.name}/{AdapterManifest.FOLDER}/") if (home / "lake").is_dir() else []
    manifests = sorted(item.path for item in kept if item.path.endswith("/manifest.json"))
    if not manifests:
        raise SystemExit(f"no adapter of {task.name} in {home / 'lake'}: run `make demo`, or name another --home")
    manifest = AdapterManifest.model_validate_json(lake.get(manifests[0]))
    lake.fetch(manifest.path, folder / "adapter")
    lake.fetch(DatasetManifest.path_of(task.name, manifest.parents["curated_dataset"]), folder / "dataset")
    base = resolve_base_model(task.base_model, ROOT / "tasks", lake, home / "cache", print)
    rows = pq.read_table(folder / "dataset" / "test.parquet", columns=["messages"]).column("messages").to_pylist()
    sentences = [[{"role": m["role"], "content": m["content"]} for m in json.loads(row)[:-1]] for row in rows]
    return Demo(base.path, folder / "adapter", manifest.system_prompt, task.baseline_prompt or "", sentences)


def met(figures: dict[str, Any]) -> bool:
    share = figures.get(f"{ADAPTERS} adapters, share of one adapter's throughput", 0)
    answers = [figure for name, figure in figures.items() if name.endswith("equal answers")]
    equal = all(figure.partition(" of ")[0] == figure.partition(" of ")[2] for figure in answers)
    return bool(figures["trained adapter, gain"] >= GAIN and share >= SHARE and equal)


if __name__ == "__main__":
    main()
