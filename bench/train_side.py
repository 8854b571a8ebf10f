"""One side of `train.py`: trains as its plan says, by our trainer or by TRL's, and prints its figures as JSON.

python bench/train_side.py ours|trl|trl_same_steps PLAN.json
"""

import json
import random
import sys
import time
from pathlib import Path
from typing import Any

SEED = 0
SKIPPED_STEPS = 1
"""The first step builds what later ones find."""


def main() -> None:
    side, plan = sys.argv[1], json.loads(Path(sys.argv[2]).read_text())
    folder = Path(plan["folder"]) / plan["name"].replace(" ", "_") / side
    speed = ours(plan, folder) if side == "ours" else theirs(plan, folder)
    peak = peak_memory(plan["device"]) / 1e9
    print(json.dumps({**speed, "peak_gb": round(peak, 2), "validation_loss": measured(plan, folder)}))


def messages(plan: dict[str, Any], row: dict[str, str]) -> list[dict[str, str]]:
    return [
        {"role": "system", "content": plan["system_prompt"]},
        {"role": "user", "content": row["text"]},
        {"role": "assistant", "content": row["category"]},
    ]


def tokenised(plan: dict[str, Any], rows: list[dict[str, str]]) -> list[Any]:
    from finetune_platform.inference.base_models import load_tokenizer
    from finetune_platform.rows import Example, Message
    from finetune_platform.training.rows import tokenise

    examples = [
        Example(messages=[Message(**m) for m in messages(plan, row)], source_uri="banking77", source_row=i)
        for i, row in enumerate(rows)
    ]
    return tokenise(examples, load_tokenizer(Path(plan["base"])), "", 4096)


def fresh(plan: dict[str, Any]) -> Any:
    from finetune_platform.task_training import Lora
    from finetune_platform.training.model import load_for_training

    lora = Lora(r=16, lora_alpha=32, target_modules="all-linear")
    device = plan["device"]
    model, _ = load_for_training(Path(plan["base"]), "base", lora, dtype=plan["dtype"], device=device, seed=SEED)
    return model


def planned(plan: dict[str, Any]) -> tuple[Any, list[Any], list[Any]]:
    """Our engine, the tokenised rows, and which of them each step takes: both sides take the same."""
    from finetune_platform.training.batches import plan_steps
    from finetune_platform.training.capacity import TOKENS_PER_FORWARD
    from finetune_platform.training.engine import choose_engine

    rows = tokenised(plan, plan["rows"])
    engine = choose_engine(Path(plan["base"]), rows, 0, plan["device"])
    steps = plan_steps(
        engine.shapes(rows),
        epochs=1,
        batch_size=plan["rows_a_step"],
        gradient_accumulation_steps=1,
        tokens_per_forward=TOKENS_PER_FORWARD[plan["device"]],
        seed=SEED,
    )
    return engine, rows, steps


def ours(plan: dict[str, Any], folder: Path) -> dict[str, Any]:
    from finetune_platform.training.capacity import TOKENS_PER_FORWARD
    from finetune_platform.training.forward import choose_forward
    from finetune_platform.training.loop import train_steps
    from finetune_platform.training.model import save_adapter, trainable
    from finetune_platform.training.objectives import Tokens
    from finetune_platform.training.optimizer import AdapterOptimizer, learning_rates
    from finetune_platform.training.random_state import seed_everything
    from finetune_platform.training.work import network_of, work_of

    device = plan["device"]
    engine, rows, steps = planned(plan)
    model = fresh(plan)
    seed_everything(SEED)
    log = list(
        train_steps(
            choose_forward(model, engine),
            AdapterOptimizer(trainable(model), 0.0),
            Tokens(rows, engine.shapes(rows)),
            steps,
            learning_rates(len(steps), plan["rate"], "constant", 0.0),
            held_out=None,
            eval_steps=len(steps),
            tokens_per_forward=TOKENS_PER_FORWARD[device],
            max_grad_norm=1.0,
        )
    )
    save_adapter(model, folder)
    seconds = sum(entry.seconds for entry in log[SKIPPED_STEPS:])
    work = work_of(network_of(model), steps[SKIPPED_STEPS:], Tokens(rows, engine.shapes(rows)), engine.packs, None, 1)
    return {
        "utilisation": round(work.flops / seconds / matrix_rate(device, plan["dtype"]), 3),
        "steps": len(log),
        "rows_per_second": round(sum(entry.rows for entry in log[SKIPPED_STEPS:]) / seconds, 3),
        "tokens_a_row": round(sum(len(row.input_ids) for row in rows) / len(rows), 1),
    }


def labelled(row: Any) -> dict[str, list[int]]:
    """A row as TRL takes it that is tokenised: what we supervise is supervised."""
    pairs = zip(row.input_ids, row.weights, strict=True)
    return {"input_ids": row.input_ids, "labels": [token if weight else -100 for token, weight in pairs]}


def theirs(plan: dict[str, Any], folder: Path) -> dict[str, Any]:
    """TRL's side, from our first adapter; each step has our rows, in a random order."""
    from importlib.util import find_spec

    import torch
    from datasets import Dataset
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from finetune_platform.training.model import save_adapter

    moments: list[float] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            moments.append(time.perf_counter())

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            moments.append(time.perf_counter())

    _, tokens, steps = planned(plan)
    rows, shuffler, on_gpu = [], random.Random(SEED), plan["device"] == "cuda"
    for step in steps:
        numbers = [number for batch in step.batches for number in batch]
        shuffler.shuffle(numbers)
        rows += [labelled(tokens[number]) for number in numbers]
    flash, liger = (on_gpu and find_spec(name) is not None for name in ("flash_attn", "liger_kernel"))
    attention = "flash_attention_2" if flash else "sdpa"
    save_adapter(fresh(plan), folder / "first")
    base = AutoModelForCausalLM.from_pretrained(
        plan["base"], dtype=getattr(torch, plan["dtype"]), attn_implementation=attention
    )
    trainer = SFTTrainer(
        model=PeftModel.from_pretrained(base, folder / "first", is_trainable=True),
        args=SFTConfig(
            output_dir=str(folder / "trainer"),
            max_steps=plan["steps"],
            train_sampling_strategy="sequential",
            per_device_train_batch_size=plan["trl_rows_a_pass"],
            gradient_accumulation_steps=plan["rows_a_step"] // plan["trl_rows_a_pass"],
            learning_rate=plan["rate"],
            lr_scheduler_type="constant",
            warmup_steps=0,
            weight_decay=0.0,
            max_length=4096,
            seed=SEED,
            bf16=plan["dtype"] == "bfloat16",
            gradient_checkpointing=False,
            use_cpu=not on_gpu,
            padding_free=flash,
            use_liger_kernel=liger,
            optim="adamw_torch_fused",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(plan["base"]),
        callbacks=[Clock()],
    )
    trainer.train()
    trainer.save_model(str(folder))
    seconds = sum(end - start for start, end in zip(moments[::2], moments[1::2], strict=True))
    seconds -= sum(moments[2 * i + 1] - moments[2 * i] for i in range(SKIPPED_STEPS))
    counted = plan["rows_a_step"] * (plan["steps"] - SKIPPED_STEPS)
    settings = {"attention": attention, "padding_free": flash, "liger": liger, "rows a pass": plan["trl_rows_a_pass"]}
    return {"steps": plan["steps"], "rows_per_second": round(counted / seconds, 3), "settings": settings}


def peak_memory(device: str) -> int:
    """The most bytes so far, as training counts them."""
    from finetune_platform.training.usage import peak_memory as counted

    return counted(device)


def matrix_rate(device: str, dtype: str) -> float:
    """Operations a second of one large matrix product, the best of five."""
    import torch

    size = 8192 if device == "cuda" else 2048
    a = torch.randn(size, size, device=device, dtype=getattr(torch, dtype))
    best = float("inf")
    for _ in range(5):
        began = time.perf_counter()
        _ = (a @ a)[0, 0].item()
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best


def measured(plan: dict[str, Any], folder: Path) -> float:
    """Mean loss of the validation rows' answers with a side's adapter, by our code for both."""
    from finetune_platform.training.engine import choose_engine
    from finetune_platform.training.forward import choose_forward
    from finetune_platform.training.loop import mean_loss, sorted_batches
    from finetune_platform.training.model import restore_adapter
    from finetune_platform.training.objectives import Tokens

    model = fresh(plan)
    restore_adapter(model, folder)
    rows = tokenised(plan, plan["validation"])
    engine = choose_engine(Path(plan["base"]), rows, 0, plan["device"])
    tokens = Tokens(rows, engine.shapes(rows))
    loss, _ = mean_loss(choose_forward(model, engine), tokens, sorted_batches(tokens, 2048))
    return round(loss, 5)


if __name__ == "__main__":
    main()
