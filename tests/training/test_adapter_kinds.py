"""Every kind of adapter that the task file names trains, and its files are what PEFT makes of them again."""

import pytest
import torch
from peft import PeftModel
from ticket_rows import examples
from transformers import AutoModelForCausalLM

from finetune_platform.inference.base_models import load_tokenizer
from finetune_platform.task_training import Lora
from finetune_platform.training.batches import plan_steps
from finetune_platform.training.engine import Engine
from finetune_platform.training.forward import choose_forward
from finetune_platform.training.loop import mean_loss, sorted_batches, train_steps
from finetune_platform.training.loss import full_logits_loss
from finetune_platform.training.model import load_for_training, save_adapter, trainable
from finetune_platform.training.objectives import Tokens
from finetune_platform.training.optimizer import AdapterOptimizer
from finetune_platform.training.preflight import compare_with_separate_rows
from finetune_platform.training.rows import tokenise

ENGINE = Engine(True, "", 2, "cpu")


@pytest.mark.parametrize(
    ("options", "fused"), [({"use_rslora": True}, True), ({"use_dora": True}, False)], ids=["rslora", "dora"]
)
def test_it_trains_and_peft_reads_what_it_learned(tiny_model, tmp_path, options, fused):
    lora = Lora(r=4, **options)
    model, _ = load_for_training(tiny_model, "tiny", lora, dtype="float32", device="cpu", seed=0)
    rows = tokenise(examples(24), load_tokenizer(tiny_model), "Name the topic.", 200)
    forward, objective = choose_forward(model, ENGINE), Tokens(rows, ENGINE.shapes(rows))
    assert (forward.fused is not None) == fused
    assert max(compare_with_separate_rows(forward, rows).values()) < 1e-5
    plan = plan_steps(
        objective.shapes, epochs=3, batch_size=4, gradient_accumulation_steps=1, tokens_per_forward=400, seed=0
    )
    before, _ = mean_loss(forward, objective, sorted_batches(objective, 400))
    optimizer = AdapterOptimizer(trainable(model), 0.0)
    rates = [0.01] * len(plan)
    limits = {"eval_steps": 100, "tokens_per_forward": 400, "max_grad_norm": 1.0}
    for _ in train_steps(forward, optimizer, objective, plan, rates, held_out=None, **limits):
        pass
    after, _ = mean_loss(forward, objective, sorted_batches(objective, 400))
    assert after < before - 0.1

    save_adapter(model, tmp_path / "adapter")
    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    served = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    config = served.peft_config["default"]
    assert {name: getattr(config, name) for name in options} == options
    with torch.no_grad():
        total = sum(full_logits_loss(served, row, "cpu").item() for row in rows)
    assert total / sum(row.supervised for row in rows) == pytest.approx(after, rel=1e-5)
