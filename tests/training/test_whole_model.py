"""All weights trained instead of an adapter: the same gradient as of separate rows, and files that are a model."""

import asyncio
import json
import shutil

import pytest
import torch
from mlflow import MlflowClient
from safetensors.numpy import load
from test_stages import every_kind, registered
from ticket_rows import examples
from transformers import AutoModelForCausalLM, LlamaConfig

from finetune_platform.errors import BadInput, PermanentError
from finetune_platform.identity import folder_sha256
from finetune_platform.inference.adapter_fit import misfit
from finetune_platform.inference.base_models import ResolvedModel, load_tokenizer
from finetune_platform.inference.chat import EngineError, LoadedAdapter
from finetune_platform.inference.engine import Engine as AnsweringEngine
from finetune_platform.inference.engines import build_engine
from finetune_platform.manifests_training import TrainingManifest
from finetune_platform.task import Task
from finetune_platform.task_search import Search
from finetune_platform.task_serving import EngineRef
from finetune_platform.task_training import Lora, Stage, Training
from finetune_platform.training import loss as loss_module
from finetune_platform.training.batches import Step
from finetune_platform.training.capacity import memory_needed
from finetune_platform.training.chain import run_training
from finetune_platform.training.engine import Engine
from finetune_platform.training.export import Wanted, export_adapter
from finetune_platform.training.forward import choose_forward
from finetune_platform.training.golden import first_tokens
from finetune_platform.training.hosted import expect_plain_sft
from finetune_platform.training.loop import StepLog, Stopped
from finetune_platform.training.loss import full_logits_loss
from finetune_platform.training.model import load_for_training, restore_adapter, save_adapter, skeleton, trainable
from finetune_platform.training.objectives import Tokens
from finetune_platform.training.optimizer import AdapterOptimizer
from finetune_platform.training.preflight import compare_with_separate_rows
from finetune_platform.training.rows import tokenise
from finetune_platform.training.search.options import with_options
from finetune_platform.training.surroundings import Surroundings
from finetune_platform.training.whole_model import vectors
from finetune_platform.training.work import network_of, work_of

PROMPT = "Name the topic of each of these tickets in one word, as a clerk at the counter would. "


@pytest.fixture
def whole(tiny_model):
    """The tiny model, to be trained whole, in float32; its embeddings are its output layer too."""
    return load_for_training(tiny_model, "tiny", None, dtype="float32", device="cpu", seed=0)[0]


@pytest.fixture
def untied():
    """A model whose output layer has weights of its own."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=49152, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, tie_word_embeddings=False,
        )  # fmt: skip
        return AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")


def gradients(model, total):
    model.zero_grad()
    total.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("packs", [True, False])
@pytest.mark.parametrize("kind", ["whole", "untied"])
@pytest.mark.parametrize("at_once", [loss_module.LOGITS_AT_ONCE, 3])
@pytest.mark.parametrize("twice", [False, True])
def test_every_weight_has_the_gradient_of_separate_rows(request, monkeypatch, tiny_model, kind, packs, at_once, twice):
    model = request.getfixturevalue(kind)
    monkeypatch.setattr(loss_module, "LOGITS_AT_ONCE", at_once)
    rows = tokenise(examples(6), load_tokenizer(tiny_model), PROMPT, 200)
    forward = choose_forward(model, Engine(packs, "", 2, "cpu"))
    assert forward.fused is None and ("all weights are trained" in forward.reason) == packs
    forward = forward.checkpointed() if twice else forward
    model.train()  # else no layer is computed twice
    together = gradients(model, forward.supervised_loss(rows))
    model.eval()
    alone = gradients(model, sum(full_logits_loss(model, row, "cpu") for row in rows))
    assert together.keys() == alone.keys() == dict(model.named_parameters()).keys()
    for name, gradient in alone.items():
        assert (together[name] - gradient).norm() / gradient.norm() < 1e-5, name
    assert max(compare_with_separate_rows(forward, rows).values()) < 1e-5


def moved(model, rate=0.01, decay=0.0):
    optimizer = AdapterOptimizer(trainable(model), decay, spared=vectors(model))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step(rate, 1.0)
    return {name: (p / before[name]).nanmean().item() for name, p in model.named_parameters()}


def test_norms_do_not_decay_and_matrices_do(whole):
    for name, ratio in moved(whole, decay=0.5).items():
        assert ratio == pytest.approx(1.0 if "norm" in name else 1 - 0.01 * 0.5, rel=1e-6), name


def test_operations_are_those_that_torch_counts_and_a_skeleton_tells_the_same(whole, tiny_model):
    from torch.utils.flop_counter import FlopCounterMode

    rows = tokenise(examples(8), load_tokenizer(tiny_model), PROMPT * 10, 600)
    engine = Engine(True, "", 2, "cpu")
    objective, plan = Tokens(rows, engine.shapes(rows)), [Step(1.0, (tuple(range(8)),))]
    with FlopCounterMode(display=False) as counted:
        choose_forward(whole, engine).supervised_loss(rows).backward()
    network = network_of(whole)
    work = work_of(network, plan, objective, True, None, 10)
    assert 1.0 < work.flops / counted.get_total_flops() < 1.5  # torch counts no attention on a CPU
    assert network.parameters == sum(p.numel() for p in whole.parameters())
    bare = skeleton(tiny_model, "tiny", None, "float32")
    assert network_of(bare) == network
    assert memory_needed(bare, objective, plan, engine) == memory_needed(whole, objective, plan, engine)


def test_files_are_a_model_the_same_bytes_twice_and_come_back(whole, untied, tmp_path):
    untied.generation_config.temperature = 0.5  # contradicts greedy answers: transformers would not save it
    for model in (whole, untied):
        folder = tmp_path / str(id(model))
        save_adapter(model, folder / "a")
        save_adapter(model, folder / "b")
        assert sorted(p.name for p in (folder / "a").iterdir()) == ["config.json", "model.safetensors"]
        assert folder_sha256(folder / "a") == folder_sha256(folder / "b")
        assert str(folder.parent) not in (folder / "a" / "config.json").read_text()
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        with torch.no_grad():
            for p in model.parameters():
                p.zero_()
        restore_adapter(model, folder / "a")
        assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    with pytest.raises(PermanentError, match="not the weights of this base model"):
        restore_adapter(untied, tmp_path / str(id(whole)) / "a")


@pytest.fixture
def train(local_lake, publish_dataset, make_task, tmp_path):
    """Trains all weights of the small task's model; keywords change the stage."""
    first = publish_dataset(local_lake)

    def run(stop=lambda: False, dataset=first, warm_start=None, stages=None, **stage):
        task = make_task(**{"peft": None, "learning_rate": 0.002, **stage})
        if stages:
            own = task.training.stages[0].model_dump()
            training = Training(stages=[Stage.model_validate({**own, **changed}) for changed in stages])
            task = task.model_copy(update={"training": training})
        uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
        surroundings = Surroundings(tmp_path / "work", uri, run.lines.append, stop=stop, progress_every_s=0)
        return run_training(task, dataset, local_lake, tmp_path / "cache", surroundings, warm_start=warm_start)

    run.lines = []
    return run


def curve_of(lake, run):
    entries = [StepLog.from_line(line) for line in lake.get(f"{run.path}/log.jsonl").decode().splitlines()]
    return [(e.step, e.loss, e.learning_rate, e.grad_norm, e.validation_loss) for e in entries]


def test_a_run_publishes_a_model_that_answers_as_the_trainer_did(train, local_lake, tiny_model, tmp_path):
    manifest = train()
    assert manifest.is_whole and manifest.golden_kept_by_merge is None and manifest.final_loss < manifest.first_loss
    assert any("layers are transformers' own: all weights are trained" in line for line in train.lines)
    folder = local_lake.fetch(manifest.path, tmp_path / "fetched", without="checkpoints")
    assert not (folder / "checkpoints").exists()
    model = AutoModelForCausalLM.from_pretrained(folder / "adapter").eval()
    assert model.dtype == torch.float32 and manifest.trainable_parameters == sum(p.numel() for p in model.parameters())
    plain = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    theirs = dict(plain.named_parameters())
    assert not any(torch.equal(p, theirs[name]) for name, p in model.named_parameters()), "every weight has moved"
    tokenizer = load_tokenizer(tiny_model)
    for golden in manifest.golden:
        assert first_tokens(model, tokenizer, golden["messages"]) == golden["token_ids"]
    params = (
        MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}").get_run(manifest.mlflow_run_id).data.params
    )
    assert params["peft"] == "None"

    # The engine of the evaluation answers from it, and from the base model again afterwards.
    engine = AnsweringEngine(tiny_model, "float32")
    ask = {"max_new_tokens": 16, "batch_size": 4, "report": print, "stage": "asking"}
    asked = [golden["messages"] for golden in manifest.golden]
    before = engine.generate(asked, adapter=None, **ask)
    tuned = engine.generate(asked, adapter=folder / "adapter", **ask)
    assert [list(a.token_ids) for a in tuned] == [golden["token_ids"] for golden in manifest.golden]
    after = engine.generate(asked, adapter=None, **ask)
    assert [a.token_ids for a in after] == [a.token_ids for a in before] != [a.token_ids for a in tuned]


@pytest.mark.parametrize("dtype", [pytest.param("float32", marks=pytest.mark.slow), "bfloat16"])
def test_a_stopped_run_goes_on_exactly(train, local_lake, dtype):
    options = {"num_train_epochs": 1, "dtype": dtype, "weight_decay": 0.1, "save_steps": 3}
    asked = iter([False] * 7 + [True])
    with pytest.raises(Stopped):
        train(stop=lambda: next(asked), **options)
    resumed = train(**options)
    assert resumed.resumed_from_steps and resumed.steps == 8
    copied = {o.path: local_lake.get(o.path) for o in local_lake.list(f"{resumed.path}/adapter")}
    curve = curve_of(local_lake, resumed)
    local_lake.delete(resumed.path)
    whole = train(**options)
    assert whole.artifact_id == resumed.artifact_id and not whole.resumed_from_steps
    assert curve_of(local_lake, whole) == curve
    assert copied == {o.path: local_lake.get(o.path) for o in local_lake.list(f"{whole.path}/adapter")}


def test_stages_go_on_with_all_weights_and_preferences_have_the_last_stage_for_a_reference(
    train, local_lake, publish_dataset
):
    stages = [
        {"method": "cpt", "num_train_epochs": 3, "max_length": 64},
        {"method": "sft"},
        {"method": "dpo", "num_train_epochs": 3},
        {"method": "kto", "num_train_epochs": 1},
    ]
    last = train(dataset=publish_dataset(local_lake, every_kind(40)), stages=stages)
    runs = [
        local_lake.manifest(TrainingManifest, TrainingManifest.path_of(last.task, stage["training_run"]))
        for stage in last.stages
    ]
    for run in runs:
        measured = [loss for *_, loss in curve_of(local_lake, run) if loss is not None]
        assert measured[-1] < measured[0], run.stages[-1]["method"]
    first = json.loads(local_lake.get(f"{runs[2].path}/log.jsonl").decode().splitlines()[0])
    assert abs(first["measures"]["reward_margin"]) < 1e-5


def test_a_warm_start_begins_at_the_whole_model_and_kinds_do_not_mix(train, local_lake):
    cold = train()
    champion = registered(local_lake, cold)
    still = train(warm_start=champion, learning_rate=1e-12)
    for name, began, ended in weights_of(local_lake, champion.path, f"{still.path}/adapter"):
        assert float(abs(began - ended).max()) < 1e-6, name
    with pytest.raises(BadInput, match=r"ad-000000000001: all of its weights were trained, .*asks for an adapter"):
        train(warm_start=champion, peft={"r": 4})
    adapter = registered(local_lake, train(peft={"r": 4}), "ad-000000000002")
    with pytest.raises(BadInput, match=r"ad-000000000002: it is an adapter, and .*peft: null trains all weights"):
        train(warm_start=adapter)
    with pytest.raises(ValueError, match=r"stages\[1\].peft differs from stages\[0\].peft"):
        Training(stages=[Stage(peft=None), Stage(peft=Lora())])


def test_an_export_is_the_model_itself_in_the_format_asked_for(train, local_lake, tiny_model, tmp_path):
    run = train()
    bundle = local_lake.fetch(run.path, tmp_path / "run") / "adapter"
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(tiny_model / name, bundle / name)
    options = {"do_sample": False, "eos_token_id": 2, "max_new_tokens": 64, "pad_token_id": 2}
    (bundle / "generation_config.json").write_text(json.dumps(options))
    files = {"files": folder_sha256(bundle), "golden": run.golden, "base_model_revision": "1"}
    adapter = registered(local_lake, run).model_copy(update=files)
    base = ResolvedModel(tiny_model, "tiny", "1", "0")
    own = export_adapter(adapter, bundle, base, Wanted(tmp_path / "own", "merged", None, None), print)
    assert (own.dtype, own.prompts, own.same, own.same_as_trained) == ("float32", 5, 5, 5)
    for _, registered_as, written in weights_in(bundle, tmp_path / "own"):
        assert (registered_as == written).all()
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "own")
    assert model.generation_config.max_new_tokens == 64
    half = export_adapter(adapter, bundle, base, Wanted(tmp_path / "half", "merged", "float16", None), print)
    assert half.dtype == "float16" and half.same == 5


def test_what_serves_or_trains_adapters_only_says_so(train, local_lake, tiny_model, tmp_path):
    folder = local_lake.fetch(train().path, tmp_path / "run") / "adapter"
    assert misfit(folder, None) == "all of its weights were trained, so it stands on no base model"
    vllm = build_engine(EngineRef(kind="vllm", urls=["http://127.0.0.1:9"]), None, {}, 7.0)
    with pytest.raises(EngineError, match="ad-1: all of its weights were trained, and a running vLLM server"):
        asyncio.run(vllm.load(LoadedAdapter("ad-1", folder)))
    with pytest.raises(ValueError, match="privacy: is for adapters"):
        Stage.model_validate({"peft": None, "privacy": {"target_epsilon": 8, "delta": 1e-5}})
    with pytest.raises(ValueError, match=r"search.r: stages\[0\].peft: null has no adapter"):
        Training(stages=[Stage(peft=None)], search=Search(minutes=1, r=[4, 8]))
    rates = Search(minutes=1, learning_rate=[1e-5, 1e-4])
    searched = with_options(Training(stages=[Stage(peft=None)], search=rates).stages[0], {"learning_rate": 5e-5})
    assert searched.peft is None and searched.learning_rate == 5e-5


def test_the_task_file_and_providers_refuse_what_cannot_take_whole_models(make_task):
    task = make_task(peft=None)
    options = task.model_dump()
    options["serving"]["engine"] = {"kind": "vllm", "urls": ["http://127.0.0.1:9"]}
    with pytest.raises(ValueError, match=r"serving.engine: running vLLM servers take adapters only"):
        Task.model_validate(options)
    with pytest.raises(BadInput, match=r"training.stages\[0\].peft: null trains all weights, and OpenAI"):
        expect_plain_sft(task, None, "OpenAI")


def weights_in(*folders):
    began, ended = (load((folder / "model.safetensors").read_bytes()) for folder in folders)
    return [(name, weights, ended[name]) for name, weights in began.items()]


def weights_of(lake, *folders):
    began, ended = (load(lake.get(f"{folder}/model.safetensors")) for folder in folders)
    return [(name, weights, ended[name]) for name, weights in began.items()]
