"""What does computing requests together gain? The in-process engine beside one `generate` at a time, on two cores.

    python bench/engine.py            # half an hour; writes bench/results/engine.json
    python bench/engine.py --quick    # about a minute, the same code

Needs the adapter that `make demo` leaves in .finetune/. Requests are the demo's test rows, answered greedily in
float32, in turns: by transformers (and PEFT) one request at a time, by the engine with 16 clients that each wait for
their answer. Then 32 adapters, copies with small random changes, are asked in turn, beside one of them asked alone.
"Processor" ratios compare processor seconds instead of the clock's, for machines that others use too. `--json` prints
one object on the last line.
"""

import argparse
import asyncio
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
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
    rounds, many, few, adapters = (1, 32, 4, 4) if quick else (2, 96, 32, ADAPTERS)
    figures: dict[str, Any] = {}
    engine = InProcessEngine(demo.base, dtype="float32", device="cpu", max_rows=CLIENTS)
    await engine.load(LoadedAdapter("trained", demo.adapter))
    for name, adapter, system in (
        ("trained adapter", "trained", demo.system_prompt),
        ("engineered prompt", None, demo.engineered_prompt),
    ):
        chats = [[{"role": "system", "content": system}, *sentence] for sentence in demo.sentences[:many]]
        alone = one_at_a_time(demo.base, demo.adapter if adapter else None)
        figures |= told(await side_by_side(name, engine, alone, chats, adapter, few, rounds))
    for copy in range(adapters):
        await engine.load(LoadedAdapter(f"copy-{copy}", changed(demo.adapter, folder / f"copy-{copy}", copy)))
    figures |= told(await switching(engine, demo, [f"copy-{copy}" for copy in range(adapters)], many, rounds))
    await engine.close()
    return figures


def told(figures: dict[str, Any]) -> dict[str, Any]:
    """The figures, shown as soon as they are there: the whole takes a while."""
    for name, figure in figures.items():
        print(f"{name}: {figure}", flush=True)
    return figures


async def side_by_side(
    name: str,
    engine: InProcessEngine,
    alone: Callable[[list[Any]], str],
    chats: list[Any],
    adapter: str | None,
    few: int,
    rounds: int,
) -> dict[str, Any]:
    """The engine answers all chats in each round; the peer, which takes its time, some of them in each."""
    theirs, ours, equal, asked = [], [], 0, 0
    for number in range(rounds):
        some = chats[number * few // rounds : (number + 1) * few // rounds]
        their_cost, their_answers = timed(lambda some=some: [alone(chat) for chat in some])
        our_cost, our_answers = await timed_async(lambda: clients(engine, chats, [adapter]))
        theirs.append(their_cost)
        ours.append(our_cost)
        answers = our_answers[number * few // rounds :]
        equal += sum(a == b for a, b in zip(answers, their_answers, strict=False))
        asked += len(some)
    clock, processor = statistics.mean(t.clock for t in theirs), statistics.mean(t.processor for t in theirs)
    our_clock, our_processor = statistics.mean(o.clock for o in ours), statistics.mean(o.processor for o in ours)
    return {
        f"{name}, one at a time, requests/s": round(1 / clock, 2),
        f"{name}, engine, requests/s": round(1 / our_clock, 2),
        f"{name}, gain": round(clock / our_clock, 2),
        f"{name}, processor gain": round(processor / our_processor, 2),
        f"{name}, equal answers": f"{equal} of {asked}",
    }


async def switching(
    engine: InProcessEngine, demo: Demo, adapters: list[str], count: int, rounds: int
) -> dict[str, Any]:
    """One adapter's throughput and that of all of them in turn, in turns."""
    chats = [[{"role": "system", "content": demo.system_prompt}, *sentence] for sentence in demo.sentences[:count]]
    await clients(engine, chats[: len(adapters)], adapters)  # shared prefixes are computed
    shares, processor = [], []
    for _ in range(rounds):
        one, _ = await timed_async(lambda: clients(engine, chats, adapters[:1]))
        all_of_them, _ = await timed_async(lambda: clients(engine, chats, adapters))
        shares.append(one.clock / all_of_them.clock)
        processor.append(one.processor / all_of_them.processor)
    return {
        f"{len(adapters)} adapters, share of one adapter's throughput": round(statistics.median(shares), 3),
        f"{len(adapters)} adapters, processor share": round(statistics.median(processor), 3),
    }


async def clients(engine: InProcessEngine, chats: list[Any], adapters: list[Any]) -> list[str]:
    """Answers to all chats, from clients that each ask the next when they have their answer."""
    answers = [""] * len(chats)
    left = iter(range(len(chats)))

    async def client() -> None:
        for i in left:
            answer = await engine.complete({"messages": chats[i], "max_tokens": 96}, adapters[i % len(adapters)])
            answers[i] = answer["choices"][0]["message"]["content"]

    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    return answers


def one_at_a_time(base: Path, adapter: Path | None) -> Callable[[list[Any]], str]:
    """The peer: transformers' `generate`, with PEFT's model where there is an adapter."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter)
    model.eval()
    tokenizer = load_tokenizer(base)

    def answer(chat: list[Any]) -> str:
        text = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
        out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=96, do_sample=False)
        return str(tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True))

    return answer


def timed(work: Callable[[], list[str]]) -> tuple[Cost, list[str]]:
    clock, processor = time.perf_counter(), time.process_time()
    answers = work()
    return cost(clock, processor, len(answers)), answers


async def timed_async(work: Callable[[], Any]) -> tuple[Cost, list[str]]:
    clock, processor = time.perf_counter(), time.process_time()
    answers = await work()
    return cost(clock, processor, len(answers)), answers


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
