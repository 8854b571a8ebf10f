"""Private training as a whole: what it publishes, what it learns, and that a resumed run is the same run."""

import json

import pytest
from mlflow import MlflowClient
from test_stages import every_kind
from ticket_rows import examples

from finetune_platform.errors import BadInput
from finetune_platform.lake import Lake
from finetune_platform.manifests import AdapterManifest
from finetune_platform.registry.card import _training
from finetune_platform.rows import Example
from finetune_platform.task import Task
from finetune_platform.task_privacy import DifferentialPrivacy
from finetune_platform.task_training import Lora, Stage, Training
from finetune_platform.training import run as run_module
from finetune_platform.training.chain import run_training
from finetune_platform.training.checkpoints import complete_steps
from finetune_platform.training.loop import Stopped
from finetune_platform.training.private.accounting import epsilon
from finetune_platform.training.private.sampling import Sampling, noise_key
from finetune_platform.training.surroundings import Surroundings

PRIVACY = {"noise_multiplier": 0.8, "delta": 1e-3, "max_grad_norm": 0.5, "accountant": "rdp"}


@pytest.fixture
def train(publish_dataset, make_task, tmp_path):
    """Trains the small task privately; `rows` of the dataset are the tickets, unless others are given."""

    def run(lake, stop=lambda: False, rows=None, warm_start=None, **stage):
        dataset = publish_dataset(lake, rows)
        surroundings = Surroundings(tmp_path / "work", f"sqlite:///{tmp_path / 'mlflow.db'}", print, stop=stop)
        task = make_task(**{"privacy": PRIVACY, **stage})
        return run_training(task, dataset, lake, tmp_path / "cache", surroundings, warm_start=warm_start)

    return run


def log_of(lake, manifest):
    return [json.loads(line) for line in lake.get(f"{manifest.path}/log.jsonl").splitlines()]


def test_it_tells_what_it_promises_everywhere_and_learns(train, local_lake, tmp_path, monkeypatch):
    monkeypatch.setattr(run_module, "noise_key", lambda lake, path: b"always the same, for the figures")
    manifest = train(local_lake, rows=examples(120), num_train_epochs=6, per_device_train_batch_size=24)
    (promised,) = manifest.privacy
    assert (promised.rows, promised.sample_rate, promised.steps) == (96, 0.25, manifest.steps)
    assert promised.epsilon == epsilon(0.8, Sampling(0.25, 24), 1e-3, "rdp")
    measured = [entry["validation_loss"] for entry in log_of(local_lake, manifest) if entry["validation_loss"]]
    assert measured[-1] < measured[0] - 0.05
    assert len({entry["rows"] for entry in log_of(local_lake, manifest)}) > 1, "a step draws, it does not count off"
    run = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}").get_run(manifest.mlflow_run_id)
    assert run.data.metrics["epsilon"] == promised.epsilon and run.data.metrics["delta"] == 1e-3
    assert run.data.params["privacy.max_grad_norm"] == "0.5"
    assert promised.in_words in _training(manifest) and "clipped to 0.5" in _training(manifest)
    assert manifest.versions["opacus"]
    # Nothing of a row, and not the secret by which the noise could be taken out again.
    assert manifest.preflight["supervised_texts"] == []
    noise_key(local_lake, manifest.path)  # As a kill between publishing and forgetting leaves it.
    assert train(local_lake, rows=examples(120), num_train_epochs=6, per_device_train_batch_size=24) == manifest
    assert not [info.path for info in local_lake.list(manifest.path) if "key" in info.path]


def test_a_run_that_was_killed_goes_on_with_the_same_rows_and_the_same_noise(train, tmp_path):
    whole, killed = Lake(str(tmp_path / "whole")), Lake(str(tmp_path / "killed"))
    other = train(Lake(str(tmp_path / "other")))
    path = other.path
    for lake in (whole, killed):
        lake.put(f"{path}/noise.key", b"the same secret in both of them.")
    asked = iter([False] * 8 + [True])
    with pytest.raises(Stopped):
        train(killed, stop=lambda: next(asked), peft={"r": 4, "lora_alpha": 8})
    *_, newest = complete_steps(killed, path)
    killed.delete(f"{path}/checkpoints/step-{newest:06d}")  # As a kill leaves it: steps that must be done again.
    resumed, uninterrupted = train(killed), train(whole)
    assert resumed.resumed_from_steps and resumed.resumed_from_steps[0] < newest
    what = ("step", "loss", "grad_norm", "rows", "validation_loss")
    curves = [[[entry[name] for name in what] for entry in log_of(lake, resumed)] for lake in (killed, whole)]
    assert curves[0] == curves[1]
    assert resumed.privacy == uninterrupted.privacy == other.privacy
    assert other.final_loss != resumed.final_loss, "another secret is another run of the same id"
    assert not other.resumed_from_steps
    assert not killed.exists(f"{path}/noise.key")
    assert killed.get(f"{path}/adapter/adapter_model.safetensors") == whole.get(
        f"{path}/adapter/adapter_model.safetensors"
    )


def test_documents_are_private_one_by_one(train, local_lake):
    long = "Ticket seven was about a card. " * 12
    rows = [Example(kind="text", messages=[], text=long, source_uri="raw/n.jsonl", source_row=0), *every_kind(30)]
    manifest = train(local_lake, rows=rows, method="cpt", max_length=32)
    (promised,) = manifest.privacy
    assert promised.kind == "text" and promised.largest_group > 2
    assert promised.rows == manifest.train_rows


def test_a_chain_keeps_the_promises_of_its_stages(train, local_lake, make_task, publish_dataset, tmp_path):
    first = make_task().training.stages[0]
    stages = [
        first.model_copy(update={"method": "cpt", "privacy": DifferentialPrivacy.model_validate(PRIVACY)}),
        first.model_copy(update={"privacy": DifferentialPrivacy.model_validate(PRIVACY)}),
        first.model_copy(update={"method": "orpo", "num_train_epochs": 0.2}),
    ]
    task = make_task().model_copy(update={"training": Training(stages=stages)})
    surroundings = Surroundings(tmp_path / "work", f"sqlite:///{tmp_path / 'mlflow.db'}", print)
    dataset = publish_dataset(local_lake, every_kind(40))
    last = run_training(task, dataset, local_lake, tmp_path / "cache", surroundings)
    assert [promised.kind for promised in last.privacy] == ["text", "sft"]
    assert last.kinds == ["preference", "sft", "text"], "who reads that sees which kind has no promise"


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"method": "dpo"}, "privacy: is for the methods cpt and sft"),
        ({"peft": Lora(use_dora=True)}, "with use_dora the gradient of one row is not known"),
        ({"privacy": {**PRIVACY, "target_epsilon": 3}}, "either target_epsilon or noise_multiplier"),
        ({"privacy": {"delta": 1e-5}}, "either target_epsilon or noise_multiplier"),
    ],
)
def test_the_task_file_refuses_what_would_not_be_private(options, problem):
    with pytest.raises(ValueError, match=problem):
        Stage.model_validate({"privacy": PRIVACY, **options})


def test_rows_that_another_way_leads_to_are_refused(make_task, train, local_lake):
    private = Stage.model_validate({"privacy": PRIVACY})
    with pytest.raises(ValueError, match=r"stages\[1\].privacy: another stage trains on the same rows of kind sft"):
        Training(stages=[Stage(), private])
    values = make_task(privacy=PRIVACY).model_dump()
    values["retraining"]["warm_start"] = {}
    with pytest.raises(ValueError, match=r"the champion's weights hold rows that training.stages\[\].privacy"):
        Task.model_validate(values)
    adapter = AdapterManifest.model_construct(artifact_id="ad-1")
    with pytest.raises(BadInput, match="ad-1: its weights hold rows"):
        train(local_lake, warm_start=adapter)  # As `--warm-start` says it, past the task file.


def test_without_opacus_it_says_what_to_install(train, local_lake, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "opacus", None)
    monkeypatch.delitem(__import__("sys").modules, "opacus.accountants", raising=False)
    with pytest.raises(BadInput, match="needs the package opacus") as told:
        train(local_lake)
    assert "finetune-platform[privacy]" in str(told.value)
