"""How much faster does an adapter train than with TRL? Both on the same rows, in turns, on this machine.

    python bench/train.py --data FOLDER            # half an hour on two cores; writes bench/results/train.json
    python bench/train.py --data FOLDER --quick    # minutes, the same code
    python bench/train.py --data FOLDER --device cuda    # on a GPU; writes bench/results/train_gpu.json

FOLDER holds Banking77's train.csv and test.csv (columns text, category). The adapter is LoRA of rank 16 on all linear
layers from the same first weights, AdamW at one rate, 32 rows a step. Once the prompt is short, once it lists 60 of the
intents and is the same for every row; that again with 16 and with 64 rows a step, since we read what rows share once a
step.

Every step has the same rows on both sides, drawn at random as TRL draws them by default. On a CPU TRL takes 32 short
or 8 long rows a pass: with 16 long ones its memory grows beyond 24 GiB. There the model is SmolLM2-135M-Instruct and
TRL is SFTTrainer with its defaults; on a GPU it is a Llama of 1.2 billion random weights (or `--model FOLDER`), and
TRL packs without padding and takes flash attention and Liger's kernels where they are installed. Both compute in
bfloat16 where this machine multiplies it natively, else in float32. Each side trains in a process of its own; the
validation loss of both adapters is measured by the same code. Utilisation is our arithmetic a second over the rate of
one large matrix product here. Needs the extra `trl`. `--json` prints one object on the last line.
"""

import argparse
import csv
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from reporting import finish

from finetune_platform.inference.base_models import resolve_base_model
from finetune_platform.inference.precision import choose_precision
from finetune_platform.lake import Lake
from finetune_platform.task_file import load_task

ROOT = Path(__file__).parent.parent
INTENTS = 60
GAINS = {
    "cpu": {"short prompt": 5.0, "long shared prompt": 40.0},
    "cuda": {"short prompt": 1.5, "long shared prompt": 8.0},
}
QUALITY, UTILISATION = 0.01, 0.45
"""Most relative difference of the validation loss; least share of the matrix rate with a long prompt on a GPU."""

STEPS = {"cpu": (30, 5, 3, 4), "cuda": (100, 60, 20, 20)}
"""Of each comparison."""

ROWS_A_STEP = 32

SIDES = {"ours": "ours", "trl": "TRL"}
"""By the names of `train_side.py`; and as figures call them."""


class Plan(NamedTuple):
    """What one comparison trains on.

    Attributes:
        most_on_cpu: Rows that TRL takes at a time on a CPU.
        rows_a_step: For both.
        rate: Learning rate of every step.
    """

    name: str
    system_prompt: str
    rows: list[dict[str, str]]
    validation: list[dict[str, str]]
    steps: int
    most_on_cpu: int
    rows_a_step: int = ROWS_A_STEP
    rate: float = 5e-4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="Banking77's folder")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--model", type=Path, help="a folder of another base model")
    parser.add_argument("--quick", action="store_true", help="few steps")
    parser.add_argument("--json", action="store_true", help="one JSON object on the last line")
    args = parser.parse_args()
    dtype = choose_precision("auto", args.device)
    print(f"computing in {dtype.dtype}: {dtype.reason}")
    figures: dict[str, Any] = {"number format": dtype.dtype}
    with tempfile.TemporaryDirectory(prefix="finetune-bench-") as temp:
        base = args.model or base_model(args.device, Path(temp))
        for plan in plans(args.data, (3, 2, 2, 2) if args.quick else STEPS[args.device]):
            figures |= compared(plan, base, dtype.dtype, args.device, Path(temp))
    targets, met = {}, []
    for name, least in GAINS[args.device].items():
        targets[f"{name}, gain"] = f">= {least}"
        targets[f"{name}, validation loss over TRL's"] = f"<= {1 + QUALITY}"
        met.append(figures[f"{name}, gain"] >= least)
        met.append(figures[f"{name}, validation loss over TRL's"] <= 1 + QUALITY)
    if args.device == "cuda":
        targets["long shared prompt, utilisation"] = f">= {UTILISATION}"
        met.append(figures["long shared prompt, utilisation"] >= UTILISATION)
    name = "train" if args.device == "cpu" else "train_gpu"
    result = {"name": name, "figures": figures, "targets": targets, "ok": all(met)}
    finish(result, args.quick, args.json, ("torch", "transformers", "peft", "trl"))


def base_model(device: str, folder: Path) -> Path:
    """SmolLM2's folder, or that of a random Llama with its tokenizer."""
    task = load_task(ROOT / "tasks" / "contract_entities.yaml")
    cache = Path(os.environ.get("FINETUNE_CACHE_DIR", ROOT / ".finetune" / "cache"))
    small = resolve_base_model(task.base_model, task.folder, Lake(str(folder / "lake")), cache, print).path
    return small if device == "cpu" else random_llama(small, folder / "llama")


def random_llama(tokenizer: Path, folder: Path) -> Path:
    """A Llama of the shape of Llama 3.2 1B with random weights."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    words = AutoTokenizer.from_pretrained(tokenizer)
    words.save_pretrained(folder)
    shape = {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32}
    config = LlamaConfig(
        **shape, num_key_value_heads=8, head_dim=64, vocab_size=128256, max_position_embeddings=8192,
        tie_word_embeddings=True, bos_token_id=words.bos_token_id, eos_token_id=words.eos_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    return folder


def plans(data: Path, steps: tuple[int, int, int, int]) -> list[Plan]:
    """The comparisons."""
    train, test = (read(data / f"{split}.csv") for split in ("train", "test"))
    intents = sorted({row["category"] for row in train})[:INTENTS]
    chance = random.Random(0)
    chance.shuffle(train)
    chance.shuffle(test)
    few = [row for row in train if row["category"] in intents]
    fewer, more = ROWS_A_STEP // 2, ROWS_A_STEP * 2
    short = "Name the intent of the customer's message."
    long = f"{short} It is one of these: {', '.join(intents)}. Answer with the name alone."
    held, held_few = test[:200], [row for row in test if row["category"] in intents][:200]
    return [
        Plan("short prompt", short, train[: ROWS_A_STEP * steps[0]], held, steps[0], 32),
        Plan("long shared prompt", long, few[: ROWS_A_STEP * steps[1]], held_few, steps[1], 8),
        Plan(f"long, {fewer} rows a step", long, few[: fewer * steps[2]], held_few, steps[2], 8, fewer),
        Plan(f"long, {more} rows a step", long, few[: more * steps[3]], held_few, steps[3], 8, more),
    ]


def read(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def compared(plan: Plan, base: Path, dtype: str, device: str, folder: Path) -> dict[str, Any]:
    """Both sides of one comparison."""
    file = folder / f"{plan.name}.json"
    rows_a_pass = plan.most_on_cpu if device == "cpu" else plan.rows_a_step
    place = {"base": str(base), "dtype": dtype, "device": device, "folder": str(folder), "trl_rows_a_pass": rows_a_pass}
    file.write_text(json.dumps({**plan._asdict(), **place}))
    told = {side: run_side(side, file) for side in SIDES}
    figures: dict[str, Any] = {}
    for side, name in SIDES.items():
        one = told[side]
        figures[f"{plan.name}, {name}: examples a second"] = one["rows_per_second"]
        figures[f"{plan.name}, {name}: peak memory, GB"] = one["peak_gb"]
        figures[f"{plan.name}, {name}: validation loss"] = one["validation_loss"]
    figures[f"{plan.name}, utilisation"] = told["ours"]["utilisation"]
    figures[f"{plan.name}, TRL's settings"] = told["trl"]["settings"]
    gain = told["ours"]["rows_per_second"] / told["trl"]["rows_per_second"]
    figures[f"{plan.name}, gain"] = round(gain, 1)
    ratio = told["ours"]["validation_loss"] / told["trl"]["validation_loss"]
    figures[f"{plan.name}, validation loss over TRL's"] = round(ratio, 4)
    return figures


def run_side(side: str, plan: Path) -> dict[str, Any]:
    """Trains in a process of its own; its figures."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).parent / "train_side.py"), side, str(plan)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(f"{side}: {told}", flush=True)
    return told


if __name__ == "__main__":
    main()
