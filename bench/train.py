"""How much faster does an adapter train than with TRL? Both on the same rows, in turns, on this machine.

    python bench/train.py --data FOLDER            # half an hour; writes bench/results/train.json
    python bench/train.py --data FOLDER --quick    # minutes, the same code

FOLDER holds Banking77's train.csv and test.csv (columns text, category). The model is SmolLM2-135M-Instruct, the
adapter LoRA of rank 16 on all linear layers, 16 rows a step, AdamW, the same rates. Once the prompt is short, once it
lists 60 of the intents and is the same for every row. TRL is SFTTrainer with its defaults. Both compute in bfloat16
where this machine multiplies it natively, else in float32. Each side trains in a process of its own; the validation
loss of both adapters is measured by the same code. Needs the extra `trl`. `--json` prints one object on the last line.
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
SHORT, LONG, QUALITY = 5.0, 40.0, 0.01
"""The targets: least gain with a short and a long prompt, most relative difference of the validation loss."""


class Plan(NamedTuple):
    """What one comparison trains on.

    Attributes:
        steps: Of 16 rows, for both.
        rate: Peak learning rate.
    """

    name: str
    system_prompt: str
    rows: list[dict[str, str]]
    validation: list[dict[str, str]]
    steps: int
    rate: float = 5e-4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="Banking77's folder")
    parser.add_argument("--quick", action="store_true", help="few steps")
    parser.add_argument("--json", action="store_true", help="one JSON object on the last line")
    args = parser.parse_args()
    dtype = choose_precision("auto", "cpu")
    print(f"computing in {dtype.dtype}: {dtype.reason}")
    figures: dict[str, Any] = {"number format": dtype.dtype}
    with tempfile.TemporaryDirectory(prefix="finetune-bench-") as temp:
        for plan in plans(args.data, args.quick):
            figures |= compared(plan, dtype.dtype, Path(temp))
    targets = {}
    for name, least in (("short prompt", SHORT), ("long shared prompt", LONG)):
        targets[f"{name}, gain"] = f">= {least}"
        targets[f"{name}, validation loss over TRL's"] = f"<= {1 + QUALITY}"
    met = [
        figures[f"{name}, gain"] >= least and figures[f"{name}, validation loss over TRL's"] <= 1 + QUALITY
        for name, least in (("short prompt", SHORT), ("long shared prompt", LONG))
    ]
    result = {"name": "train", "figures": figures, "targets": targets, "ok": all(met)}
    finish(result, args.quick, args.json, ("torch", "transformers", "peft", "trl"))


def plans(data: Path, quick: bool) -> list[Plan]:
    """The two comparisons."""
    train, test = (read(data / f"{split}.csv") for split in ("train", "test"))
    intents = sorted({row["category"] for row in train})[:INTENTS]
    chance = random.Random(0)
    chance.shuffle(train)
    chance.shuffle(test)
    few = [row for row in train if row["category"] in intents]
    short = "Name the intent of the customer's message."
    long = f"{short} It is one of these: {', '.join(intents)}. Answer with the name alone."
    held, held_few = test[:200], [row for row in test if row["category"] in intents][:200]
    steps = (3, 2) if quick else (60, 12)
    return [
        Plan("short prompt", short, train[: 16 * steps[0]], held, steps[0]),
        Plan("long shared prompt", long, few[: 16 * steps[1]], held_few, steps[1]),
    ]


def read(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def compared(plan: Plan, dtype: str, folder: Path) -> dict[str, Any]:
    """Both sides of one comparison."""
    task = load_task(ROOT / "tasks" / "contract_entities.yaml")
    cache = Path(os.environ.get("FINETUNE_CACHE_DIR", ROOT / ".finetune" / "cache"))
    base = resolve_base_model(task.base_model, task.folder, Lake(str(folder / "lake")), cache, print)
    file = folder / f"{plan.name}.json"
    file.write_text(json.dumps({**plan._asdict(), "base": str(base.path), "dtype": dtype, "folder": str(folder)}))
    told = {side: run_side(side, file) for side in ("ours", "trl")}
    figures: dict[str, Any] = {}
    for side, name in (("ours", "ours"), ("trl", "TRL")):
        one = told[side]
        figures[f"{plan.name}, {name}: examples a second"] = one["rows_per_second"]
        figures[f"{plan.name}, {name}: peak memory, GB"] = one["peak_gb"]
        figures[f"{plan.name}, {name}: validation loss"] = one["validation_loss"]
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
