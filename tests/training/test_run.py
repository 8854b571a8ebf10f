"""A whole training run in this process: what it publishes, and that it is done once."""

import json

import pytest
import torch
from mlflow import MlflowClient
from peft import PeftModel
from transformers import AutoModelForCausalLM

from finetune_platform.errors import PermanentError
from finetune_platform.inference.base_models import load_tokenizer
from finetune_platform.manifests_training import TrainingManifest
from finetune_platform.progress import parse_progress
from finetune_platform.training import divergence
from finetune_platform.training import run as run_module
from finetune_platform.training.chain import run_training
from finetune_platform.training.checkpoints import complete_steps
from finetune_platform.training.loop import Stopped
from finetune_platform.training.surroundings import Surroundings


@pytest.fixture
def train(lake, publish_dataset, make_task, tmp_path):
    """Trains the small task; returns the manifest. `lines` holds what was reported."""
    dataset, lines = publish_dataset(lake), []

    def run(stop=lambda: False, **stage):
        uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
        surroundings = Surroundings(tmp_path / "work", uri, lines.append, stop=stop, progress_every_s=0)
        return run_training(make_task(**stage), dataset, lake, tmp_path / "cache", surroundings)

    run.lines = lines
    return run


def test_a_run_publishes_an_adapter_that_answers_as_the_trainer_did(train, lake, tiny_model, tmp_path):
    manifest = train()

    assert lake.manifest(TrainingManifest, manifest.path) == manifest
    folder = lake.fetch(manifest.path, tmp_path / "fetched")
    config = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == manifest.base_model == "tiny"
    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    served = PeftModel.from_pretrained(base, folder / "adapter").eval()
    tokenizer = load_tokenizer(tiny_model)
    assert manifest.usage and manifest.usage.flops > 0 and manifest.usage.peak_memory_bytes > 10**8
    assert manifest.usage.cost is None and manifest.usage.utilisation is None  # no price, no GPU
    assert manifest.golden_kept_by_merge == 5
    assert len(manifest.golden) == 5
    for golden in manifest.golden:
        prompt = tokenizer.apply_chat_template(golden["messages"], add_generation_prompt=True, return_tensors="pt")
        answer = served.generate(**prompt, do_sample=False, max_new_tokens=16)
        assert answer[0, prompt["input_ids"].shape[1] :].tolist() == golden["token_ids"]

    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == list(range(1, manifest.steps + 1))
    assert [line["step"] for line in log if line["validation_loss"] is not None] == [5, 10, 15, 16]
    assert log[-1]["loss"] < log[0]["loss"] and manifest.final_loss < manifest.first_loss
    assert manifest.preflight["supervised_texts"][0] == "card<|im_end|>"
    assert [p.done for p in map(parse_progress, train.lines) if p and p.stage == "training"] == list(range(1, 17))

    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    run = client.get_run(manifest.mlflow_run_id)
    assert run.info.status == "FINISHED" and run.data.params["peft.r"] == "4"
    assert run.data.metrics["flops"] == manifest.usage.flops
    curve = client.get_metric_history(manifest.mlflow_run_id, "loss")
    assert [m.value for m in curve] == pytest.approx([line["loss"] for line in log])
    assert lake.exists(f"mlflow/ticket_topics/{manifest.mlflow_run_id}/artifacts/loss.svg")

    train.lines.clear()
    assert train() == manifest
    assert train.lines[-1] == f"training: {manifest.artifact_id} is finished already"


def test_other_options_are_another_run_and_a_stopped_one_goes_on(train, local_lake, request):
    if "s3" in request.node.name:
        pytest.skip("the lake makes no difference here")
    asked = iter([False] * 6 + [True])
    with pytest.raises(Stopped):
        train(stop=lambda: next(asked), num_train_epochs=1)
    manifest = train(num_train_epochs=1)
    assert manifest.resumed_from_steps and manifest.steps == 8
    assert manifest.artifact_id != train(num_train_epochs=1, learning_rate=0.02).artifact_id


def test_a_diverging_run_stops_with_a_checkpoint_from_before(train, local_lake, monkeypatch, request):
    if "s3" in request.node.name:
        pytest.skip("the lake makes no difference here")
    monkeypatch.setattr(run_module, "learning_rates", lambda steps, *_: [0.01] * 50 + [100.0] * (steps - 50))
    monkeypatch.setattr(divergence, "MOST_RISE", 0.1)  # the tiny model's loss has nowhere to go
    with pytest.raises(PermanentError, match=r"training step \d+: the run has diverged"):
        train(num_train_epochs=20, save_total_limit=1)
    (path,) = {o.path.split("/checkpoints/")[0] for o in local_lake.list("ticket_topics/training_runs")}
    assert complete_steps(local_lake, path)[0] <= 51
    last = json.loads(local_lake.get(f"{path}/checkpoints/attempts.json"))["attempts"][-1]
    assert last["ending"] == "PermanentError"
