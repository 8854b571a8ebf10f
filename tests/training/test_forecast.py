"""A forecast: which measured runs it rests on, what it costs, and that it refuses where the run would."""

import json

import pytest
from typer.testing import CliRunner

from finetune_platform.cli import app
from finetune_platform.commands.installation import open_database, open_lake
from finetune_platform.errors import BadInput
from finetune_platform.manifests_training import TrainingManifest, Usage
from finetune_platform.task_search import Search
from finetune_platform.training import TRAINING_VERSION, devices
from finetune_platform.training.devices import Device, listed_gpu
from finetune_platform.training.forecast import ASSUMED_SHARE, forecast, rate_of

HERE = Device("Some CPU, 2 threads, float32", "cpu", 10**10, 1e11, None, "a probe")


def finished(run: str, device: str, flops: float, base_model: str = "tiny") -> TrainingManifest:
    usage = Usage(device=device, flops=flops, seconds=10, tokens_per_second=1, peak_memory_bytes=1)
    return TrainingManifest(
        artifact_id=run, task="t", code_version=TRAINING_VERSION, base_model=base_model,
        base_model_revision="1", system_prompt="",
        chat_template_sha256="0", stages=[], steps=1, train_rows=1, supervised_tokens=1, trainable_parameters=1,
        first_loss=1, final_loss=1, validation_loss=None, train_seconds=10, rows_per_second=1, preflight={}, golden=[],
        versions={}, device="cpu", usage=usage,
    )  # fmt: skip


def test_a_rate_is_measured_on_the_same_device_and_best_on_the_same_model():
    assert rate_of(HERE, [], "tiny") == (HERE.flops * ASSUMED_SHARE["cpu"], [], False)
    elsewhere = finished("tr-0", "Another CPU, 2 threads, float32", 1e15)
    assert rate_of(HERE, [elsewhere], "tiny").runs == []
    old = finished("tr-0", HERE.name, 1e15).model_copy(update={"code_version": "0"})
    assert rate_of(HERE, [old], "tiny").runs == []
    whole = finished("tr-0", HERE.name, 1e15).model_copy(update={"stages": [{"peft": None}]})
    assert rate_of(HERE, [whole], "tiny").runs == [] != rate_of(HERE, [whole], "tiny", whole=True).runs
    other = finished("tr-1", HERE.name, 1e11, "large")
    assert rate_of(HERE, [elsewhere, other], "tiny") == (1e10, ["tr-1"], False)
    same = [finished(f"tr-{n}", HERE.name, n * 1e11) for n in range(2, 9)]
    assert rate_of(HERE, [other, *same], "tiny") == (6e10, [f"tr-{n}" for n in range(4, 9)], True)


def test_runs_in_4_bits_tell_the_rate_of_runs_in_4_bits_only():
    plain = finished("tr-1", HERE.name, 1e12)
    held = finished("tr-2", HERE.name, 1e11).model_copy(update={"stages": [{"quantization": {"load_in_4bit": True}}]})
    assert rate_of(HERE, [plain, held], "tiny").runs == ["tr-1"]
    assert rate_of(HERE, [plain, held], "tiny", quantised=True) == (1e10, ["tr-2"], True)


def test_gpus_are_found_by_any_spelling_and_runs_by_the_drivers_name():
    gpu = listed_gpu("a100-80gb")
    assert gpu.name == "A100 80GB" and 70e9 < gpu.memory < 80 * 2**30
    driver = "NVIDIA A100-SXM4-80GB, bfloat16"
    assert rate_of(gpu, [finished("tr-1", driver, 1e15)], "tiny").runs == ["tr-1"]
    assert rate_of(listed_gpu("A100 40GB"), [finished("tr-1", driver, 1e15)], "tiny").runs == []
    with pytest.raises(BadInput, match=r'"H10" is not known(?s:.*)one of L4, '):
        listed_gpu("H10")


def test_the_stages_are_counted_on_the_datasets_own_rows(make_task, publish_dataset, local_lake, tiny_model, tmp_path):
    from finetune_platform.inference.base_models import resolve_base_model

    task, dataset = make_task(), publish_dataset(local_lake)
    base = resolve_base_model(task.base_model, task.folder, local_lake, tmp_path, print)
    measured = [finished("tr-1", HERE.name, 1e11)]
    found = forecast(task, dataset, base, HERE, measured, local_lake, print)
    (stage,) = found.stages
    assert (stage.rows, stage.work.steps) == (32, 16) and found.cost is None
    assert stage.seconds == stage.work.flops / 1e10
    stored = (tiny_model / "model.safetensors").stat().st_size  # in bfloat16
    assert stage.model == pytest.approx(2 * stored, rel=0.01)
    priced = task.model_copy(update={"cost": task.cost.model_copy(update={"training_hour": 3600.0})})
    dear = forecast(priced, dataset, base, HERE, measured, local_lake, print)
    assert dear.cost == pytest.approx(dear.seconds)
    held = make_task(quantization={"load_in_4bit": True})
    (small,) = forecast(held, dataset, base, HERE, measured, local_lake, print).stages
    linear = 2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128)  # weights of two layers, in float32
    assert small.work == stage.work and stage.model - small.model == pytest.approx(linear * (4 - 4.127 / 8), rel=1e-3)
    training = task.training.model_copy(update={"processes": 4, "fsdp": True})
    divided = forecast(task.model_copy(update={"training": training}), dataset, base, HERE, measured, local_lake, print)
    assert divided.shards == 4 and divided.stages[0].model == stage.model // 4 and not divided.rate.runs
    assert divided.stages[0].memory - stage.memory == stage.model, "what is gathered: of so few layers all"
    gpu = forecast(task, dataset, base, listed_gpu("L4"), [], local_lake, print)
    assert gpu.seconds >= 2 * gpu.stages[0].work.passes * gpu.stages[0].model / 300e9


def test_a_search_adds_its_budget_and_its_stage_counts_with_what_takes_most(
    make_task, publish_dataset, settings_env
) -> None:
    from finetune_platform.inference.base_models import resolve_base_model

    lake, task = open_lake(), make_task()
    dataset = publish_dataset(lake)
    base = resolve_base_model(task.base_model, task.folder, lake, settings_env.cache_dir, print)
    priced = task.model_copy(update={"cost": task.cost.model_copy(update={"training_hour": 6.0})})
    search = Search(minutes=30, r=[2, 32], num_train_epochs=[1, 6])
    training = task.training.model_copy(update={"search": search})
    plain = forecast(priced, dataset, base, HERE, [], lake, print)
    found = forecast(priced.model_copy(update={"training": training}), dataset, base, HERE, [], lake, print)
    assert plain.search is None and found.search == (0, 16, 1800, 3.0)
    assert found.stages[0].work.steps == 3 * plain.stages[0].work.steps and found.memory > plain.memory
    assert found.cost == pytest.approx(found.seconds / 600), "its own cost comes on top"
    text = task.path.read_text()
    task.path.write_text(text.replace("training:\n", "training:\n  search: {minutes: 30, r: [2, 32]}\n"))
    open_database().record_artifact(dataset, "curated_dataset", "here", None)
    told = CliRunner().invoke(app, ["plan", "ticket_topics"])
    assert told.exit_code == 0 and "search  at most 30:00 more, before stage 0: 16 trials" in told.output, told.output
    document = json.loads(CliRunner().invoke(app, ["plan", "ticket_topics", "--json"]).stdout)
    assert document["search"]["seconds"] == 1800 and document["search"]["cost"] is None


def test_the_command_tells_and_exits_with_1_where_it_does_not_fit(
    make_task, publish_dataset, settings_env, monkeypatch
):
    make_task()
    call = ["plan", "ticket_topics"]
    told = CliRunner().invoke(app, call)
    assert told.exit_code == 2 and "finetune run ticket_topics --to curated_dataset" in " ".join(told.output.split())
    dataset = publish_dataset(open_lake())
    open_database().record_artifact(dataset, "curated_dataset", "here", None)
    told = CliRunner().invoke(app, call)
    assert told.exit_code == 0, told.output
    assert "fits" in told.output and "not measured" in told.output and "cost.training_hour is not set" in told.output
    document = json.loads(CliRunner().invoke(app, [*call, "--gpu", "H100", "--json"]).stdout)
    assert document["fits"] and document["cost"] is None and document["stages"][0]["work"]["steps"] == 16
    monkeypatch.setitem(devices.GPUS, "L4", devices.GPUS["L4"]._replace(memory_gib=0))
    told = CliRunner().invoke(app, [*call, "--gpu", "L4"])
    assert told.exit_code == 1 and "does not fit" in told.output and "mend:" in told.output
