"""The trainer as a process: stopped, orphaned or killed, the same command goes on as if nothing had happened."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from finetune_platform.lake import Lake
from finetune_platform.progress import parse_progress
from finetune_platform.training.__main__ import main
from finetune_platform.training.loop import StepLog

OPTIONS = {
    "num_train_epochs": 6,
    "dtype": "bfloat16",
    "peft": {"r": 4, "lora_alpha": 8, "lora_dropout": 0.1},
    "save_steps": 5,
    "eval_steps": 12,
}
STEPS = 48


@pytest.fixture
def command(settings_env, publish_dataset, make_task, monkeypatch):
    """The trainer's command line for a published dataset, and the environment it needs."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    task = make_task(**OPTIONS)
    dataset = publish_dataset(Lake(settings_env.lake_url))
    return ["--task-file", str(task.path), "--dataset", dataset.artifact_id, "--progress-every", "0"]


class Trainer:
    """A training process in a session of its own."""

    def __init__(self, arguments):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "finetune_platform.training", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.lines = []

    def wait_for_step(self, step):
        for line in self.process.stdout:
            self.lines.append(line.rstrip())
            progress = parse_progress(self.lines[-1])
            if progress and progress.stage == "training" and progress.done >= step:
                return
        pytest.fail(f"ended before step {step}: {self.lines}")

    def end(self):
        self.lines += self.process.stdout.read().splitlines()
        return self.process.wait(timeout=60)


def curve(lake: Lake, training_run: str) -> list[tuple]:
    log = lake.get(f"ticket_topics/training_runs/{training_run}/log.jsonl").decode().splitlines()
    entries = [StepLog.from_line(line) for line in log]
    return [(e.step, e.loss, e.learning_rate, e.grad_norm, e.validation_loss) for e in entries]


def test_a_run_orphaned_at_some_step_has_the_curve_of_one_that_was_not(command, settings_env, monkeypatch, capsys):
    lake = Lake(settings_env.lake_url)
    trainer = Trainer([*command, "--exit-with-parent"])
    trainer.wait_for_step(7)
    trainer.process.stdin.close()  # what a parent's death looks like; the trainer sends itself SIGTERM
    assert trainer.end() == 75, trainer.lines
    stopped = re.search(r"stopped after step (\d+) of \d+; the same command goes on there", trainer.lines[-1])
    assert stopped, trainer.lines

    trainer = Trainer(command)
    assert trainer.end() == 0, trainer.lines
    run_id = json.loads(trainer.lines[-1])["training_run_id"]
    resumed = curve(lake, run_id)
    manifest = json.loads(lake.get(f"ticket_topics/training_runs/{run_id}/manifest.json"))
    assert len(manifest["resumed_from_steps"]) == 1

    lake.delete(f"ticket_topics/training_runs/{run_id}")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert main(command) == 0
    finally:
        torch.set_num_threads(threads)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["training_run_id"] == run_id
    assert curve(lake, run_id) == resumed and len(resumed) == STEPS


def test_what_a_user_can_mend_is_one_message_without_a_traceback(command, settings_env, capsys):
    arguments = [*command[:2], "--dataset", "ds-missing"]
    assert main(arguments) == 2
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    out, err = capsys.readouterr()
    assert err.startswith("--dataset ds-missing: nothing is published at") and "Traceback" not in err
    assert json.loads(out)["error"]["transient"] is False


def test_more_processes_than_gpus_are_refused_with_both_figures(command, monkeypatch, capsys):
    task = Path(command[1])
    task.write_text(task.read_text().replace("training:\n", "training:\n  processes: 4\n"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert main(command) == 2
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    out, err = capsys.readouterr()
    assert err.startswith("training.processes is 4, and this machine has 2 GPUs") and "auto" in err
    assert json.loads(out)["error"]["type"] == "BadInput"
