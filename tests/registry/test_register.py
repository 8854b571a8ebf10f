"""Registering: what is refused, what appears where, and that nothing happens twice, also after a crash."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_chains import Chain, ChainFactory, gate, make_task

from finetune_platform.errors import BadInput, PermanentError, Unreachable
from finetune_platform.identity import folder_sha256
from finetune_platform.inference.base_models import ResolvedModel
from finetune_platform.lake import Lake
from finetune_platform.manifests import AdapterManifest
from finetune_platform.registry import bundle, mlflow_versions, promotions, register

BUNDLE = {
    "adapter_config.json",
    "adapter_model.safetensors",
    "card.md",
    "chat_template.jinja",
    "generation_config.json",
    "manifest.json",
    "tokenizer.json",
    "tokenizer_config.json",
}


class Crash(Exception):
    """The process ends here."""


def versions(tracking_uri: str) -> list[Any]:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri, tracking_uri)
    return sorted(client.search_model_versions("name = 'cities'"), key=lambda version: int(version.version))


def aliases(tracking_uri: str) -> dict[str, str]:
    from mlflow import MlflowClient

    model = MlflowClient(tracking_uri, tracking_uri).get_registered_model("cities")
    return {alias: str(version) for alias, version in model.aliases.items()}


def moves(chain: Chain) -> list[tuple[str, str, str | None]]:
    return [(m.alias, m.adapter_id, m.previous_adapter_id) for m in promotions.history(chain.database, "cities")]


def test_a_bundle_a_version_and_two_aliases(chains: ChainFactory, tracking_uri: str, tmp_path: Path) -> None:
    chain = chains()
    adapter = chain.register(tracking_uri)
    local = chain.lake.fetch(adapter.path, tmp_path / "bundle")
    assert {p.name for p in local.iterdir()} == BUNDLE
    stored = folder_sha256(local)
    assert adapter.files == {name: sha for name, sha in stored.items() if name not in ("card.md", "manifest.json")}
    assert adapter.parents == {
        "evaluation_report": chain.evaluation.artifact_id,
        "trained_adapter": chain.training.artifact_id,
        "curated_dataset": chain.dataset.artifact_id,
        "raw_examples": chain.raw.artifact_id,
    }
    (version,) = versions(tracking_uri)
    assert version.source == chain.lake.url_of(adapter.path)
    assert version.tags["adapter_id"] == adapter.artifact_id
    assert version.tags["dataset_id"] == chain.dataset.artifact_id
    assert version.tags["evaluation_id"] == chain.evaluation.artifact_id
    assert version.tags["metric.exact_match"] == "0.8000"
    assert aliases(tracking_uri) == {"candidate": "1", "champion": "1"}
    assert moves(chain) == [("candidate", adapter.artifact_id, None), ("champion", adapter.artifact_id, None)]
    row = promotions.history(chain.database, "cities")[0]
    assert (row.actor, row.evaluation_id, row.mlflow_version) == (
        "dagster run run-1",
        chain.evaluation.artifact_id,
        "1",
    )


def test_the_bundle_loads_with_peft_and_generates(
    local_chains: ChainFactory, tracking_uri: str, tmp_path: Path, tiny_model: Path
) -> None:
    import peft
    import torch
    import transformers

    chain = local_chains()
    folder = chain.lake.fetch(chain.register(tracking_uri).path, tmp_path / "bundle")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    base = transformers.AutoModelForCausalLM.from_pretrained(tiny_model, dtype="float32")
    messages = [{"role": "user", "content": "Sentence 1"}]
    inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    plain = base(**inputs).logits
    model = peft.PeftModel.from_pretrained(base, folder)
    assert not torch.allclose(plain, model(**inputs).logits)
    options = transformers.GenerationConfig.from_pretrained(folder)
    assert (options.do_sample, options.max_new_tokens) == (False, make_task().evaluation.max_new_tokens)
    options.max_new_tokens = 3
    assert model.generate(**inputs, generation_config=options).shape[1] > inputs["input_ids"].shape[1]


def test_the_second_adapter_is_candidate_and_the_first_stays_champion(
    local_chains: ChainFactory, tracking_uri: str
) -> None:
    first, second = local_chains(seed=0), local_chains(seed=1)
    one, two = first.register(tracking_uri), second.register(tracking_uri)
    assert one.artifact_id != two.artifact_id
    assert aliases(tracking_uri) == {"candidate": "2", "champion": "1"}
    assert moves(first)[2:] == [("candidate", two.artifact_id, one.artifact_id)]


def test_registering_twice_changes_nothing(chains: ChainFactory, tracking_uri: str) -> None:
    chain = chains()
    first = chain.register(tracking_uri)
    objects, rows = chain.lake.list(first.path), moves(chain)
    second = chain.register(tracking_uri, dagster_run_id="run-2")
    assert second == first
    assert chain.lake.list(first.path) == objects
    assert moves(chain) == rows
    assert len(versions(tracking_uri)) == 1


STEPS: list[tuple[Any, str]] = [
    (Lake, "publish"),
    (mlflow_versions, "_ensure_model"),
    (register, "ensure_version"),
    (register, "point_alias"),
    (register, "record_alias"),
]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("nth", [1, 2])
@pytest.mark.parametrize(("owner", "name"), STEPS, ids=[name for _, name in STEPS])
def test_a_registration_killed_at_any_step_is_completed_by_the_next(
    local_chains: ChainFactory,
    tracking_uri: str,
    monkeypatch: pytest.MonkeyPatch,
    owner: Any,
    name: str,
    nth: int,
    after: bool,
) -> None:
    chain = local_chains()
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, crashing(getattr(owner, name), nth, after))
        try:
            chain.register(tracking_uri)
        except Crash:
            pass
        else:
            assert nth == 2 and name not in ("point_alias", "record_alias"), "the step never ran"
    adapter = chain.register(tracking_uri)
    assert {Path(o.path).name for o in chain.lake.list(adapter.path)} == BUNDLE
    assert [v.tags["adapter_id"] for v in versions(tracking_uri)] == [adapter.artifact_id]
    assert aliases(tracking_uri) == {"candidate": "1", "champion": "1"}
    assert sorted(moves(chain)) == [("candidate", adapter.artifact_id, None), ("champion", adapter.artifact_id, None)]


def crashing(step: Callable[..., Any], nth: int, after: bool) -> Callable[..., Any]:
    """`step`, ending the process before or after its nth call."""
    calls = iter(range(1, 100))

    def crashes(*arguments: Any, **keywords: Any) -> Any:
        last = next(calls) == nth
        if last and not after:
            raise Crash
        result = step(*arguments, **keywords)
        if last:
            raise Crash
        return result

    return crashes


def test_blocked_by_gates_with_each_reason(local_chains: ChainFactory, tracking_uri: str) -> None:
    gates = [
        gate("fail", name="exact_match vs prompted"),
        gate("inconclusive", name="exact_match vs trivial"),
        gate("fail", tier="warn", name="only a warning"),
        gate("pass", name="exact_match >= 0.5"),
    ]
    chain = local_chains(gates=gates)
    with pytest.raises(PermanentError) as failure:
        chain.register(tracking_uri)
    problem = failure.value.problem
    assert "2 hard gates of cities not passed" in problem
    assert "exact_match vs prompted (all): fail: observed +0.300" in problem
    assert "exact_match vs trivial (all): inconclusive" in problem
    assert "only a warning" not in problem and ">= 0.5" not in problem
    assert chain.lake.list("cities/adapters") == []


@pytest.mark.parametrize(
    ("part", "change", "told"),
    [
        ("evaluation", {"parents": {"trained_adapter": "tr-other", "curated_dataset": "ds-rome"}}, "tr-other"),
        ("training", {"parents": {"curated_dataset": "ds-other"}}, "ds-other"),
        ("training", {"base_model_revision": "r9"}, "r9"),
        ("training", {"chat_template_sha256": "0" * 64}, "0" * 64),
        ("training", {"system_prompt": "Another."}, "Another."),
        ("dataset", {"task": "rivers"}, "rivers"),
    ],
)
def test_manifests_that_disagree_are_refused_with_both_values(
    local_chains: ChainFactory, tracking_uri: str, part: str, change: dict[str, Any], told: str
) -> None:
    chain = local_chains()
    with pytest.raises(BadInput) as failure:
        chain.register(tracking_uri, **{part: getattr(chain, part).model_copy(update=change)})
    assert told in failure.value.problem and "expected" in failure.value.problem
    assert chain.lake.list("cities/adapters") == []


def test_a_pickle_never_enters(local_chains: ChainFactory, tracking_uri: str) -> None:
    import pickle

    chain = local_chains()
    chain.lake.put(f"{chain.training.path}/adapter/{bundle.WEIGHTS}", pickle.dumps({"a": 1}))
    with pytest.raises(PermanentError, match="not a safetensors file"):
        chain.register(tracking_uri)
    assert chain.lake.list("cities/adapters") == []


def test_code_beside_the_tokenizer_stays_behind(
    local_chains: ChainFactory, tracking_uri: str, tmp_path: Path, base_model: ResolvedModel
) -> None:
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(base_model.path, folder)
    (folder / "modeling_evil.py").write_text("import os")
    (folder / "tokenizer.model").write_bytes(b"\x80\x04")
    chain = local_chains()
    adapter = chain.register(tracking_uri, base_model=base_model._replace(path=folder))
    assert {Path(o.path).name for o in chain.lake.list(adapter.path)} == BUNDLE


def test_missing_weights_name_file_and_mend(local_chains: ChainFactory, tracking_uri: str) -> None:
    chain = local_chains()
    chain.lake.delete(f"{chain.training.path}/adapter/{bundle.WEIGHTS}")
    with pytest.raises(PermanentError, match=r"adapter_model\.safetensors: not there") as failure:
        chain.register(tracking_uri)
    assert "--from trained_adapter" in failure.value.mend


def test_no_local_path_enters_the_bundle(local_chains: ChainFactory, tracking_uri: str) -> None:
    chain = local_chains()
    adapter = chain.register(tracking_uri)
    config = json.loads(chain.lake.get(f"{adapter.path}/adapter_config.json"))
    assert config["base_model_name_or_path"] == "tiny"
    assert config["r"] == 4


def test_the_card_tells_what_a_reader_asks(local_chains: ChainFactory, tracking_uri: str) -> None:
    chain = local_chains(gates=[gate("pass"), gate("fail", tier="warn", name="exact_match on long rows")])
    adapter = chain.register(tracking_uri)
    card = chain.lake.get(f"{adapter.path}/card.md").decode()
    for told in (
        adapter.artifact_id,
        "data/cities.jsonl",
        "| candidate | 0.800 [0.700, 0.900] |",
        "licence",
        "PeftModel.from_pretrained",
        "exact_match on long rows: fail",
        *adapter.parents.values(),
    ):
        assert told in card, told


def test_a_whole_model_is_a_bundle_that_transformers_reads_alone(
    chains: ChainFactory, tracking_uri: str, tmp_path: Path, base_model: ResolvedModel
) -> None:
    from transformers import AutoModelForCausalLM

    chain = chains()
    for name in ("model.safetensors", "config.json"):
        chain.lake.put(f"{chain.training.path}/adapter/{name}", (base_model.path / name).read_bytes())
    chain.training.stages[0]["peft"] = None
    adapter = chain.register(tracking_uri)
    assert isinstance(adapter, AdapterManifest) and adapter.is_whole
    bundle_folder = chain.lake.fetch(adapter.path, tmp_path / "bundle")
    weights = {"adapter_config.json", "adapter_model.safetensors"}
    assert {p.name for p in bundle_folder.iterdir()} == BUNDLE - weights | {"config.json", "model.safetensors"}
    model = AutoModelForCausalLM.from_pretrained(bundle_folder, local_files_only=True)
    assert model.generation_config.max_new_tokens == chain.task.evaluation.max_new_tokens
    card = (bundle_folder / "card.md").read_text()
    assert "A whole model: all weights trained, from `tiny`" in card
    assert "AutoModelForCausalLM.from_pretrained" in card and "PeftModel" not in card and "--enable-lora" not in card


def test_a_server_cannot_take_a_local_bundle(local_chains: ChainFactory) -> None:
    with pytest.raises(BadInput, match="refuses model versions in the local folder"):
        local_chains().register("http://127.0.0.1:9")


def test_mlflow_that_does_not_open_is_told_at_once_without_its_password(
    local_chains: ChainFactory, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    chain = local_chains()
    with pytest.raises(Unreachable, match="MLflow at sqlite"):
        chain.register(f"sqlite:///{tmp_path}/file/mlflow.db")
    started = time.monotonic()
    with pytest.raises(Unreachable, match=r"MLflow at postgresql\+psycopg://127") as failure:
        chain.register("postgresql+psycopg://user:secret@127.0.0.1:9/mlflow")
    assert time.monotonic() - started < 10
    assert "secret" not in str(failure.value)


def test_the_same_content_has_the_same_address_in_another_installation(
    local_chains: ChainFactory, tracking_uri: str, tmp_path: Path, base_model: ResolvedModel
) -> None:
    from finetune_platform.database import Database

    other = ChainFactory(Lake(str(tmp_path / "other")), Database(f"sqlite:///{tmp_path}/other.db"), base_model)
    first = local_chains().register(tracking_uri)
    second = other().register(tracking_uri)
    assert isinstance(second, AdapterManifest)
    assert second.artifact_id == first.artifact_id
