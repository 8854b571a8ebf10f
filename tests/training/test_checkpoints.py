"""What a run continues from: whole, the newest, and exactly where it stopped."""

import math

import pytest
import torch
from ticket_rows import examples

from finetune_platform.errors import PermanentError
from finetune_platform.inference.base_models import load_tokenizer
from finetune_platform.task_training import Lora
from finetune_platform.training.batches import plan_steps
from finetune_platform.training.checkpoints import (
    CheckpointRecord,
    complete_steps,
    restore_checkpoint,
    save_checkpoint,
)
from finetune_platform.training.engine import Engine
from finetune_platform.training.forward import choose_forward
from finetune_platform.training.loop import Stopped, train_steps
from finetune_platform.training.model import load_for_training, trainable
from finetune_platform.training.objectives import Tokens
from finetune_platform.training.optimizer import AdapterOptimizer, learning_rates
from finetune_platform.training.processes import ALONE
from finetune_platform.training.random_state import random_state, seed_everything
from finetune_platform.training.rows import tokenise

PATH = "ticket_topics/training_runs/tr-1"
ENGINE = Engine(True, "", 2, "cpu")


class Run:
    """A few steps on the tiny model, with dropout so that the random states matter."""

    def __init__(self, tiny_model, dtype="float32", rate=0.01, dropout=0.2, whole=False, processes=ALONE, batch=4):
        lora = None if whole else Lora(r=4, lora_dropout=dropout)
        loading = {"dtype": dtype, "device": "cpu", "seed": 0, "processes": processes}
        self.model, _ = load_for_training(tiny_model, "tiny", lora, **loading)
        self.optimizer = AdapterOptimizer(trainable(self.model), 0.01, dithered=whole, processes=processes)
        self.processes = processes
        self.forward = choose_forward(self.model, ENGINE)
        self.rows = tokenise(examples(20), load_tokenizer(tiny_model), "Name the topic.", 200)
        self.plan = plan_steps(
            ENGINE.shapes(self.rows),
            epochs=2,
            batch_size=batch,
            gradient_accumulation_steps=1,
            tokens_per_forward=100,
            seed=0,
        )
        self.rates = learning_rates(len(self.plan), rate, "cosine", 0.1)
        self.log = []
        seed_everything(0)

    def train(self, until=None, stop=lambda: False, processes=None):
        steps = train_steps(
            self.forward,
            self.optimizer,
            Tokens(self.rows, ENGINE.shapes(self.rows)),
            self.plan,
            self.rates,
            held_out=Tokens(self.rows[:5], ENGINE.shapes(self.rows[:5])),
            eval_steps=3,
            tokens_per_forward=100,
            max_grad_norm=1.0,
            start=len(self.log),
            stop=stop,
            processes=processes or self.processes,
        )
        for entry in steps:
            self.log.append(entry)
            if entry.step == until:
                break
        return self

    def save(self, lake, tmp_path, keep=2):
        record = CheckpointRecord(training_run="tr-1", step=len(self.log), resumed_from_steps=[])
        states = [random_state()]
        places = {"work_dir": tmp_path / "work", "keep": keep, "processes": self.processes}
        save_checkpoint(lake, PATH, record, self.model, self.optimizer, self.log, states, **places)

    def restore(self, lake, tmp_path, step):
        places = {"work_dir": tmp_path / f"work-{self.processes.rank}", "processes": self.processes}
        restored = restore_checkpoint(lake, PATH, step, self.model, self.optimizer, "cpu", **places)
        self.log = restored.log
        return self

    @property
    def curve(self):
        return [(e.step, e.loss, e.learning_rate, e.grad_norm, e.validation_loss) for e in self.log]


def weights(run):
    return torch.cat([p.detach().float().flatten() for p in trainable(run.model)])


def test_a_resumed_run_has_the_curve_and_the_weights_of_an_uninterrupted_one(lake, tiny_model, tmp_path):
    for dtype in ("float32", "bfloat16"):
        whole = Run(tiny_model, dtype).train()
        Run(tiny_model, dtype).train(until=4).save(lake, tmp_path)
        torch.rand(7)  # another process would not have the same random state either
        resumed = Run(tiny_model, dtype).restore(lake, tmp_path, 4).train()
        assert resumed.curve == whole.curve
        assert torch.equal(weights(resumed), weights(whole))
        lake.delete(PATH)


def test_stopping_undoes_the_step_under_way(local_lake, tiny_model, tmp_path):
    whole = Run(tiny_model).train()
    asked = iter([False] * 9 + [True])
    stopped = Run(tiny_model)
    with pytest.raises(Stopped) as told:
        stopped.train(stop=lambda: next(asked))
    assert 0 < told.value.steps_done == len(stopped.log) < len(stopped.plan)
    stopped.save(local_lake, tmp_path)
    assert Run(tiny_model).restore(local_lake, tmp_path, len(stopped.log)).train().curve == whole.curve


def test_only_whole_checkpoints_count_and_a_half_one_is_written_over(lake, tiny_model, tmp_path):
    run = Run(tiny_model).train(until=2)
    run.save(lake, tmp_path)
    lake.put(f"{PATH}/checkpoints/step-000003/adapter_model.safetensors", b"half")
    assert complete_steps(lake, PATH) == [2]
    run.train(until=3).save(lake, tmp_path)
    assert complete_steps(lake, PATH) == [2, 3]
    assert Run(tiny_model).restore(lake, tmp_path, 3).curve == run.curve


def test_older_checkpoints_go_once_the_newer_is_whole(local_lake, tiny_model, tmp_path):
    run = Run(tiny_model)
    for step in (1, 2, 10):
        run.train(until=step).save(local_lake, tmp_path, keep=2)
    assert complete_steps(local_lake, PATH) == [2, 10]
    assert not [o for o in local_lake.list(PATH) if "step-000001" in o.path]


def test_the_checkpoint_before_the_loss_went_up_outlives_the_newer_ones(local_lake, tiny_model, tmp_path):
    run = Run(tiny_model)
    for step in (2, 4, 6, 8):
        run.train(until=step)
        if step > 4:
            run.log[-2:] = [entry._replace(loss=50.0) for entry in run.log[-2:]]
        run.save(local_lake, tmp_path, keep=1)
    assert complete_steps(local_lake, PATH) == [4, 8]


def test_a_loss_that_is_not_a_number_stops_before_anything_moves(tiny_model):
    run = Run(tiny_model).train(until=3)
    with torch.no_grad():
        run.model.get_base_model().model.norm.weight[0] = math.nan
    before = weights(run)
    with pytest.raises(PermanentError, match="step 4: the loss is nan"):
        run.train()
    assert torch.equal(weights(run), before) and len(run.log) == 3
