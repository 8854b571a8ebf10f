"""Several processes compute what one would have: the same gradient, the same curve, and they stop together."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from company import Company
from dagster import AssetExecutionContext, DagsterInstance, MaterializeResult, asset, materialize
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load
from test_checkpoints import Run
from test_killed import KEYS, PLACES, curve

from finetune_platform.lake import Lake
from finetune_platform.manifests_training import TrainingManifest
from finetune_platform.resources.local_launcher import LocalLauncher
from finetune_platform.settings import Launched
from finetune_platform.training.__main__ import main
from finetune_platform.training.checkpoints import complete_steps
from finetune_platform.training.processes import ALONE, Processes, joined

PASSES = st.lists(st.lists(st.integers(1, 500), min_size=1, max_size=9), min_size=1, max_size=5)


@given(PASSES, st.integers(1, 5))
def test_every_row_is_computed_once_and_the_work_is_even(passes, count):
    tokens = [length for batch in passes for length in batch]
    numbers = iter(range(len(tokens)))
    batches = [tuple(next(numbers) for _ in batch) for batch in passes]
    shares = [[part for part, _ in Processes(rank, count).share(batches, tokens)] for rank in range(count)]
    assert sorted(row for share in shares for batch in share for row in batch) == list(range(len(tokens)))
    for share in shares:
        assert all(any(set(part) <= set(batch) for batch in batches) for part in share)
        assert sum(tokens[row] for part in share for row in part) <= sum(tokens) / count + max(tokens)
    assert [part for part, _ in ALONE.share(batches, tokens)] == batches


@given(PASSES, st.integers(1, 5))
def test_of_a_divided_model_all_take_as_many_passes_and_every_row_counts_once(passes, count):
    tokens = [length for batch in passes for length in batch]
    numbers = iter(range(len(tokens)))
    batches = [tuple(next(numbers) for _ in batch) for batch in passes]
    company = [Processes(rank, count, sharded=True) for rank in range(count)]
    for parts in ([p.share(batches, tokens) for p in company], [p.deal(batches) for p in company]):
        assert len({len(part) for part in parts}) == 1
        counted = [row for part in parts for rows, counts in part if counts for row in rows]
        assert sorted(counted) == list(range(len(tokens)))
        assert all(len(rows) == 1 for part in parts for rows, counts in part if not counts)


def losses(log):
    return [loss for _, *entry, validation in log for loss in (entry[0], validation) if loss is not None]


def gradients_of(tiny_model, processes, whole):
    """Each step's gradient, and the curve; without dropout, which differs from process to process."""
    run = Run(tiny_model, dropout=0.0, rate=0.001 if whole else 0.01, whole=whole)
    seen, move = [], run.optimizer.step

    def step(rate, norm):
        seen.append(torch.cat([p.grad.flatten().clone() for p in run.optimizer.parameters]))
        return move(rate, norm)

    run.optimizer.step = step
    run.train(processes=processes)
    return torch.stack(seen), run.curve


def train_joined(tiny_model, folder, whole):
    with joined(Launched()) as processes:
        gradients, log = gradients_of(tiny_model, processes, whole)
        torch.save((gradients, log, processes), folder / f"{processes.rank}.pt")


@pytest.mark.parametrize("whole", [False, True], ids=["adapter", "all weights"])
def test_two_processes_have_the_gradient_of_one(tiny_model, tmp_path, whole):
    assert Company(2, train_joined, tiny_model, tmp_path, whole).codes() == [0, 0]
    alone, log = gradients_of(tiny_model, ALONE, whole)
    for rank in (0, 1):
        theirs, their_log, processes = torch.load(tmp_path / f"{rank}.pt", weights_only=False)
        assert processes == Processes(rank, 2)
        assert (theirs[0] - alone[0]).norm() / alone[0].norm() < 1e-5
        assert (theirs - alone).norm() / alone.norm() < 1e-4  # the weights have gone their own ways by a rounding
        assert losses(their_log) == pytest.approx(losses(log), rel=1e-5)


@pytest.fixture
def arguments(settings_env, publish_dataset, make_task):
    """The trainer's command line for a published dataset, and its environment."""
    publish_dataset(Lake(settings_env.lake_url))
    environment = {name: os.environ[name] for name in (*PLACES, *KEYS, "LAKE_URL") if name in os.environ}

    def make(num_train_epochs=6, **options):
        task = make_task(num_train_epochs=num_train_epochs, save_steps=5, eval_steps=12, **options)
        return ["--task-file", str(task.path), "--dataset", "ds-000000000001", "--progress-every", "0"]

    make.environment = environment
    return make


def train(arguments):
    raise SystemExit(main(arguments))


def of_two_processes(arguments, more="", **stage):
    """The command line, for a task that asks for two."""
    options = arguments(**stage)
    task = Path(options[1])
    task.write_text(task.read_text().replace("training:\n", f"training:\n  processes: 2\n{more}"))
    return options


def of_two_that_divide_the_base_model(arguments, **stage):
    return of_two_processes(arguments, "  fsdp: true\n", **stage)


def step_reached(lake, step):
    """Waits until a checkpoint tells of a step; returns the run's folder."""
    deadline = time.monotonic() + 100
    while time.monotonic() < deadline:
        runs = {o.path.split("/checkpoints/")[0] for o in lake.list("ticket_topics/training_runs")}
        for path in runs:
            if max(complete_steps(lake, path), default=0) >= step:
                return path
        time.sleep(0.02)
    raise AssertionError("it did not happen")


def manifest_in(lake):
    (path,) = {o.path.split("/adapter/")[0] for o in lake.list("ticket_topics/training_runs") if "/adapter/" in o.path}
    return lake.manifest(TrainingManifest, path)


def uninterrupted(arguments, lake, tmp_path, processes, **options):
    """The curve of the same run in a lake of its own."""
    other = Lake(str(tmp_path / "uninterrupted"))
    for found in lake.list("ticket_topics/datasets"):
        other.put(found.path, lake.get(found.path))
    environment = {**arguments.environment, "LAKE_URL": other.url}
    assert Company(processes, train, arguments(**options), environment=environment).codes() == [0] * processes
    return curve(other)


def test_a_stop_at_any_process_stops_all_at_a_checkpoint_from_which_they_go_on(arguments, settings_env, tmp_path):
    lake = Lake(settings_env.lake_url)
    # Dropout: each process has random states of its own, and each must find its own again.
    options = {"peft": {"r": 4, "lora_alpha": 8, "lora_dropout": 0.2}}
    company = Company(2, train, arguments(**options), environment=arguments.environment)
    path = step_reached(lake, 5)
    os.kill(company.processes[1].pid, signal.SIGTERM)
    assert company.codes() == [75, 75]
    assert max(complete_steps(lake, path)) < 48
    assert Company(2, train, arguments(**options), environment=arguments.environment).codes() == [0, 0]
    together = curve(lake)
    assert together == uninterrupted(arguments, lake, tmp_path, 2, **options) and len(together) == 48


def test_a_base_model_divided_among_two_leads_to_the_run_of_one(arguments, settings_env, tmp_path):
    lake, options = Lake(settings_env.lake_url), {"num_train_epochs": 2}
    divided = of_two_that_divide_the_base_model(arguments, **options)
    assert Company(2, train, divided, environment=arguments.environment).codes() == [0, 0]
    alone = uninterrupted(arguments, lake, tmp_path, 1, **options)
    assert losses(curve(lake)) == pytest.approx(losses(alone), rel=1e-4)
    ours, theirs = (manifest_in(place) for place in (lake, Lake(str(tmp_path / "uninterrupted"))))
    assert ours.artifact_id == theirs.artifact_id and ours.golden == theirs.golden and len(ours.golden) == 5
    assert (ours.usage.processes, ours.usage.fsdp, ours.usage.flops) == (2, True, theirs.usage.flops)
    assert ours.golden_kept_by_merge is None and "the base model was divided" in ours.merge_in_words
    assert ours.preflight["gradient_difference"] < 1e-5 and theirs.merge_in_words == "5 of 5"


@pytest.mark.slow
def test_a_model_all_of_whose_parts_are_trained_is_published_whole(arguments, settings_env, tmp_path):
    lake, options = Lake(settings_env.lake_url), {"num_train_epochs": 2, "peft": None, "learning_rate": 0.001}
    divided = of_two_that_divide_the_base_model(arguments, **options)
    assert Company(2, train, divided, environment=arguments.environment).codes() == [0, 0]
    alone = uninterrupted(arguments, lake, tmp_path, 1, **options)
    assert losses(curve(lake)) == pytest.approx(losses(alone), rel=1e-4)
    lakes = (lake, Lake(str(tmp_path / "uninterrupted")))
    ours, theirs = (manifest_in(place) for place in lakes)
    assert ours.artifact_id == theirs.artifact_id and ours.golden == theirs.golden and ours.merge_in_words is None
    config, other = (place.get(f"{ours.path}/adapter/config.json") for place in lakes)
    assert config == other
    published, expected = (load(place.get(f"{ours.path}/adapter/model.safetensors")) for place in lakes)
    assert published.keys() == expected.keys()
    for name, weights in expected.items():
        assert (published[name] - weights).norm() / weights.norm() < 1e-4, name


@pytest.mark.slow
def test_a_divided_run_stops_at_a_checkpoint_from_which_two_and_one_process_go_on(arguments, settings_env, tmp_path):
    lake = Lake(settings_env.lake_url)
    for reached in (5, 20):
        company = Company(2, train, of_two_that_divide_the_base_model(arguments), environment=arguments.environment)
        path = step_reached(lake, reached)
        os.kill(company.processes[1].pid, signal.SIGTERM)
        assert company.codes() == [75, 75]
        assert max(complete_steps(lake, path)) < 48
    assert Company(1, train, arguments(), environment=arguments.environment).codes() == [0]
    assert losses(curve(lake)) == pytest.approx(losses(uninterrupted(arguments, lake, tmp_path, 1)), rel=1e-4)


@pytest.mark.slow
def test_the_command_starts_its_processes_itself_and_torchrun_does_as_well(arguments, settings_env, tmp_path):
    lake = Lake(settings_env.lake_url)
    options = of_two_processes(arguments)
    trainer = subprocess.Popen([sys.executable, "-m", "finetune_platform.training", *options], start_new_session=True)
    step_reached(lake, 5)
    os.killpg(trainer.pid, signal.SIGTERM)
    assert trainer.wait(60) == 75
    trainer = subprocess.Popen([sys.executable, "-m", "finetune_platform.training", *options], start_new_session=True)
    step_reached(lake, 20)
    company = psutil.Process(trainer.pid).children()
    assert len(company) == 2
    company[1].kill()
    assert trainer.wait(90) == -signal.SIGKILL
    assert not any(process.is_running() for process in company)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m"]
    subprocess.run([*torchrun, "finetune_platform.training", *options], check=True, timeout=200)
    assert losses(curve(lake)) == pytest.approx(losses(uninterrupted(arguments, lake, tmp_path, 1)), rel=1e-4)


@pytest.mark.slow
def test_dagster_hears_of_several_processes_as_of_one(arguments, settings_env):
    """Through the launcher's own process: the result arrives from the first of those that it starts."""
    command = [sys.executable, "-m", "finetune_platform.training", *of_two_processes(arguments)]
    results = []

    @asset
    def trained_adapter(context: AssetExecutionContext) -> MaterializeResult:
        results.append(LocalLauncher().launch(context, command, {}))
        return MaterializeResult()

    with DagsterInstance.ephemeral() as instance:
        done = materialize([trained_adapter], instance=instance)
        lines = [entry.user_message for entry in instance.all_logs(done.run_id)]
    (found,) = results
    assert found["training_run_id"].startswith("tr-")
    assert sum("final loss" in line for line in lines) == 1
