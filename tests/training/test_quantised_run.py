"""Training beside a base model in 4 bits as a whole: what it publishes, and what that is worth as it is served."""

import json
import math

import pytest
import torch
from company import Company
from mlflow import MlflowClient
from peft import PeftModel
from test_private_run import PRIVACY
from test_stages import chained, every_kind
from ticket_rows import examples
from transformers import AutoModelForCausalLM

from finetune_platform.errors import BadInput
from finetune_platform.inference.base_models import load_tokenizer
from finetune_platform.lake import Lake
from finetune_platform.registry.card import _training
from finetune_platform.settings import Launched
from finetune_platform.task_search import Search
from finetune_platform.training import chain, served
from finetune_platform.training.chain import run_training
from finetune_platform.training.hosted import expect_plain_sft
from finetune_platform.training.loop import Stopped
from finetune_platform.training.loss import full_logits_loss
from finetune_platform.training.preferences import tokenise_pairs
from finetune_platform.training.processes import joined
from finetune_platform.training.rows import read_split, tokenise
from finetune_platform.training.surroundings import Surroundings

IN_4_BITS = {"load_in_4bit": True}


@pytest.fixture
def train(publish_dataset, make_task, tmp_path):
    """Trains the small task beside a base model in 4 bits; `lines` holds what was reported."""
    lines = []

    def run(lake, rows=None, stages=None, **options):
        run.dataset = publish_dataset(lake, rows)
        if stages is None:
            task = make_task(quantization=IN_4_BITS, **options)
        else:
            task = chained(make_task, [{**stage, "quantization": IN_4_BITS} for stage in stages])
        uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
        surroundings = Surroundings(tmp_path / "work", uri, lines.append)
        surroundings = surroundings._replace(stop=run.stop, progress_every_s=0)
        return run_training(task, run.dataset, lake, tmp_path / "cache", surroundings)

    run.lines, run.stop = lines, lambda: False
    return run


def log_of(lake, manifest):
    return [json.loads(line) for line in lake.get(f"{manifest.path}/log.jsonl").splitlines()]


def as_served(lake, manifest, tiny_model, folder):
    """The published adapter beside the base model as it is."""
    files = lake.fetch(manifest.path, folder)
    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    return PeftModel.from_pretrained(base, files / "adapter").eval()


def test_it_tells_what_the_adapter_is_worth_beside_the_base_model_as_it_is(train, local_lake, tiny_model, tmp_path):
    manifest = train(local_lake, num_train_epochs=4)
    model, tokenizer = as_served(local_lake, manifest, tiny_model, tmp_path / "adapter"), load_tokenizer(tiny_model)
    validation = read_split(local_lake, train.dataset, "validation")
    rows = tokenise(validation, tokenizer, manifest.system_prompt, 256)
    with torch.no_grad():
        total = sum(full_logits_loss(model, row, "cpu").item() for row in rows)
    expected = total / sum(row.supervised for row in rows)
    assert manifest.served and manifest.served.validation_loss == pytest.approx(expected, rel=1e-6)
    # In 4 bits it is another model.
    assert abs(manifest.validation_loss - expected) > 3e-5
    assert 0 <= manifest.served.golden_kept <= 5 and manifest.golden_kept_by_merge == 5
    for golden in manifest.golden:
        prompt = tokenizer.apply_chat_template(golden["messages"], add_generation_prompt=True, return_tensors="pt")
        answer = model.generate(**prompt, do_sample=False, max_new_tokens=16)
        assert answer[0, prompt["input_ids"].shape[1] :].tolist() == golden["token_ids"]

    log = log_of(local_lake, manifest)
    assert log[-1]["validation_loss"] < log[4]["validation_loss"]
    told = f"validation loss {expected:.4f}, in training {manifest.validation_loss:.4f}"
    assert told in manifest.served_in_words and told in _training(manifest)
    assert any(told in line for line in train.lines)
    assert any("held in 4 bits (nf4, scales quantised too)" in line for line in train.lines)
    assert any("layers are transformers' own: the base model is in 4 bits" in line for line in train.lines)
    assert manifest.versions["bitsandbytes"]
    run = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}").get_run(manifest.mlflow_run_id)
    assert run.data.metrics["served_validation_loss"] == manifest.served.validation_loss
    assert run.data.params["quantization.bnb_4bit_quant_type"] == "nf4"


def test_the_reference_of_preferences_is_the_model_at_the_beginning_beside_each_base(
    train, local_lake, tiny_model, tmp_path
):
    stages = [{"method": "sft", "learning_rate": 0.02}, {"method": "dpo", "learning_rate": 0.1, "num_train_epochs": 3}]
    last = train(local_lake, every_kind(40), stages)
    log = log_of(local_lake, last)
    assert abs(log[0]["measures"]["reward_margin"]) < 1e-5 and log[0]["loss"] == pytest.approx(math.log(2), rel=1e-5)
    assert log[-1]["measures"]["validation_reward_margin"] > 0.02
    # What DPO's formula gives with the weights of both stages beside the base model as it is.
    first = local_lake.manifest(type(last), type(last).path_of(last.task, last.stages[0]["training_run"]))
    held_out = read_split(local_lake, train.dataset, "validation", "preference")
    pairs = tokenise_pairs(held_out, load_tokenizer(tiny_model), last.system_prompt, 256)
    models = [as_served(local_lake, one, tiny_model, tmp_path / one.artifact_id) for one in (last, first)]
    losses = []
    with torch.no_grad():
        for pair in pairs:
            sums = [[-full_logits_loss(model, row, "cpu") for row in pair[:2]] for model in models]
            margin = (sums[0][0] - sums[1][0]) - (sums[0][1] - sums[1][1])
            losses.append(-torch.nn.functional.logsigmoid(0.1 * margin).item())
    assert last.served.validation_loss == pytest.approx(sum(losses) / len(losses), rel=1e-4)


def test_every_other_method_trains_beside_it(train, local_lake):
    options = {"learning_rate": 0.02, "num_train_epochs": 0.5}
    methods = ["cpt", "orpo", "kto"]
    last = train(local_lake, every_kind(40), [{"method": method, **options} for method in methods])
    assert [stage["method"] for stage in last.stages] == methods
    for stage in last.stages:
        one = local_lake.manifest(type(last), type(last).path_of(last.task, stage["training_run"]))
        assert one.served.validation_loss == pytest.approx(one.validation_loss, rel=0.01)


def test_a_stopped_run_goes_on_with_the_curve_of_one_that_was_not(train, tmp_path):
    whole, stopped = Lake(str(tmp_path / "whole")), Lake(str(tmp_path / "stopped"))
    options = {"peft": {"r": 4, "lora_alpha": 8, "lora_dropout": 0.2}, "dtype": "bfloat16"}
    asked = iter([False] * 8 + [True])
    train.stop = lambda: next(asked)
    with pytest.raises(Stopped):
        train(stopped, **options)
    train.stop = lambda: False
    resumed, uninterrupted = train(stopped, **options), train(whole, **options)
    assert resumed.resumed_from_steps and resumed.artifact_id == uninterrupted.artifact_id
    what = ("step", "loss", "grad_norm", "validation_loss")
    curves = [
        [[entry[name] for name in what] for entry in log_of(lake, one)]
        for lake, one in ((stopped, resumed), (whole, uninterrupted))
    ]
    assert curves[0] == curves[1]
    weights = f"{resumed.path}/adapter/adapter_model.safetensors"
    assert stopped.get(weights) == whole.get(weights)
    assert resumed.served == uninterrupted.served


def test_private_rows_may_be_learned_beside_it(train, local_lake):
    manifest = train(local_lake, privacy=PRIVACY)
    assert manifest.privacy and manifest.served and manifest.served.validation_loss


def one_of_two(task, dataset, lake_url, folder):
    with joined(Launched()) as processes:
        surroundings = Surroundings(folder / "work", f"sqlite:///{folder / 'mlflow.db'}", print)
        run_training(task, dataset, Lake(lake_url), folder / "cache", surroundings, processes=processes)


@pytest.mark.slow
def test_two_processes_train_the_adapter_of_one(train, make_task, publish_dataset, tmp_path):
    together, alone = Lake(str(tmp_path / "together")), Lake(str(tmp_path / "alone"))
    dataset, task = publish_dataset(together), make_task(quantization=IN_4_BITS)
    assert Company(2, one_of_two, task, dataset, together.url, tmp_path).codes() == [0, 0]
    one = train(alone)
    losses = [[entry["loss"] for entry in log_of(lake, one)] for lake in (together, alone)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    both = together.manifest(type(one), one.path)
    assert both.served.validation_loss == pytest.approx(one.served.validation_loss, rel=1e-3)


@pytest.mark.slow
def test_a_search_tries_and_trains_beside_it(make_task, publish_dataset, local_lake, tmp_path):
    task = make_task(quantization=IN_4_BITS)
    search = Search(trials=2, minutes=5, learning_rate=[0.005, 0.02])
    task = task.model_copy(update={"training": task.training.model_copy(update={"search": search})})
    surroundings = Surroundings(tmp_path / "work", f"sqlite:///{tmp_path / 'mlflow.db'}", print)
    dataset = publish_dataset(local_lake, examples(60))
    manifest = run_training(task, dataset, local_lake, tmp_path / "cache", surroundings)
    assert manifest.searched and manifest.served and manifest.served.validation_loss
    assert manifest.stages[0]["learning_rate"] == manifest.searched.chosen["learning_rate"]


def test_where_the_whole_model_does_not_fit_it_says_so_and_publishes(train, local_lake, monkeypatch):
    monkeypatch.setattr(served, "memory_available", lambda device: 1000)
    manifest = train(local_lake, num_train_epochs=0.5)
    assert manifest.served and manifest.served.validation_loss is None and manifest.golden_kept_by_merge is None
    assert "GB are free" in manifest.served.reason and "not measured" in _training(manifest)
    assert len(manifest.golden) == 5 and local_lake.exists(f"{manifest.path}/adapter/adapter_model.safetensors")


def test_where_bitsandbytes_is_missing_nothing_is_fetched(train, local_lake, monkeypatch):
    monkeypatch.setattr("transformers.utils.is_bitsandbytes_available", lambda: False)
    monkeypatch.setattr(chain, "resolve_base_model", None)
    with pytest.raises(BadInput, match=r"pip install 'finetune-platform\[qlora\]'"):
        train(local_lake)


def test_a_provider_holds_its_model_as_it_likes(make_task):
    with pytest.raises(BadInput, match=r"training.stages\[0\].quantization: openai decides itself"):
        expect_plain_sft(make_task(quantization=IN_4_BITS), None, "openai")
