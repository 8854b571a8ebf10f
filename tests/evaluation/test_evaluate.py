"""A whole evaluation: what it publishes, what it does not do twice, and where it stops."""

import io
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from recorded_chain import Chain, RecordedEngine, gold_of, good_adapter, number_in

from finetune_platform.errors import BadInput
from finetune_platform.evaluation.baselines import row_baselines
from finetune_platform.evaluation.evaluate import evaluate, published_evaluation
from finetune_platform.evaluation.evidence import Evidence
from finetune_platform.evaluation.intervals import wilson
from finetune_platform.evaluation.publication import read_evidence
from finetune_platform.inference.engine import Completion
from finetune_platform.lake import Lake
from finetune_platform.manifests import AdapterManifest, EvaluationManifest
from finetune_platform.manifests_training import TrainingManifest
from finetune_platform.task import Task


def run(
    task: Task,
    chain: Chain,
    training: TrainingManifest,
    champion: AdapterManifest | None = None,
    engine: RecordedEngine | None = None,
) -> EvaluationManifest:
    engine = engine or RecordedEngine(good_adapter)
    return evaluate(task, chain.dataset, training, champion, engine, chain.lake, chain.folder / "work", lambda _: None)


def evidence_of(chain: Chain, manifest: EvaluationManifest) -> Evidence:
    return read_evidence(chain.lake, manifest.task, manifest.artifact_id)


def test_a_first_adapter_is_measured_and_published(task: Task, chain: Chain) -> None:
    manifest = run(task, chain, chain.training())
    assert manifest.verdict == "pass"
    assert manifest.headline.startswith("Register: the adapter's entity F1 is 0.")
    assert manifest.headline.endswith("above the best prompt")
    assert manifest.parents == {"trained_adapter": "tr-1", "curated_dataset": "ds-1"}
    assert [g.verdict for g in manifest.gates] == ["pass", "pass", "skipped", "pass", "pass"]
    assert manifest.blocking == []
    assert set(manifest.summary) == {"candidate", "prompted", "few_shot", "trivial"}
    assert manifest.summary["candidate"]["exact_match"]["value"] == pytest.approx(108 / 120)
    assert manifest.summary["trivial"]["exact_match"]["value"] == pytest.approx(0.5)
    files = {info.path.rpartition("/")[2] for info in chain.lake.list(manifest.path)}
    assert files == {"report.html", "report.json", "predictions.parquet", "manifest.json"}


def test_it_works_the_same_in_a_bucket(task: Task, lake: Lake, tmp_path: Path) -> None:
    chain = Chain(lake, tmp_path / "upstream")
    manifest = run(task, chain, chain.training(), chain.champion())
    assert lake.manifest(EvaluationManifest, manifest.path) == manifest


def test_every_answer_is_kept_with_its_scores(task: Task, chain: Chain) -> None:
    manifest = run(task, chain, chain.training())
    table = pq.read_table(io.BytesIO(chain.lake.get(f"{manifest.path}/predictions.parquet")))
    assert table.num_rows == 4 * 120
    rows = {(r["arm"], r["example_id"]): r for r in table.to_pylist()}
    row = next(r for r in chain.test if r.source_row == 110)
    wrong = rows["candidate", row.example_id]
    assert (wrong["answer"], wrong["gold"]) == ("[Zed - PERSON]", gold_of(110))
    assert (wrong["score_exact_match"], wrong["score_entity_f1"], wrong["score_valid_format"]) == (0.0, 0.0, 1.0)
    assert '"List."' in wrong["prompt"] and wrong["latency_ms"] >= 10 and wrong["finish_reason"] == "stop"
    empty = next(r for r in chain.test if r.source_row == 111)
    assert rows["candidate", empty.example_id]["score_entity_f1"] is None
    trivial = rows["trivial", row.example_id]
    assert (trivial["prompt"], trivial["latency_ms"], trivial["completion_tokens"]) == (None, None, 0)


def test_the_report_and_its_data_agree(task: Task, chain: Chain) -> None:
    manifest = run(task, chain, chain.training(), chain.champion())
    evidence = evidence_of(chain, manifest)
    html = chain.lake.get(f"{manifest.path}/report.html").decode()
    assert (evidence.verdict, evidence.headline) == (manifest.verdict, manifest.headline)
    assert evidence.gates == manifest.gates and len(evidence.conditions) == len(evidence.gates)
    assert [a.name for a in evidence.benchmarks[0].arms] == ["candidate", "champion", "prompted", "few_shot", "trivial"]
    assert [c.reference for c in evidence.benchmarks[0].comparisons] == ["champion", "prompted", "few_shot", "trivial"]
    assert len(evidence.examples) == 20
    assert "<script>" not in html and "&lt;script&gt;alert(1)" in html


def test_a_report_that_cannot_be_read_is_named(local_lake: Lake) -> None:
    with pytest.raises(BadInput, match=r"ev-1/report\.json: it is not there"):
        read_evidence(local_lake, "people", "ev-1")
    local_lake.put("people/evaluations/ev-1/report.json", b'{"evaluation_id": "ev-1"}')
    with pytest.raises(BadInput, match=r"ev-1/report\.json: task: Field required"):
        read_evidence(local_lake, "people", "ev-1")


def test_the_same_evaluation_is_not_made_twice(task: Task, chain: Chain) -> None:
    training = chain.training()
    assert published_evaluation(task, chain.dataset, training, None, chain.lake) is None
    first = run(task, chain, training)
    idle = RecordedEngine(good_adapter)
    assert run(task, chain, training, engine=idle) == first
    assert published_evaluation(task, chain.dataset, training, None, chain.lake) == first
    assert idle.stages == []


def test_registering_the_adapter_does_not_call_for_another_evaluation(task: Task, chain: Chain) -> None:
    training = chain.training()
    first = run(task, chain, training)
    itself = chain.champion(trained_adapter=training.artifact_id)
    assert run(task, chain, training, itself) == first


def test_an_adapter_is_not_its_own_rival(task: Task, chain: Chain) -> None:
    training = chain.training()
    manifest = run(task, chain, training, chain.champion(trained_adapter=training.artifact_id))
    gate = next(g for g in manifest.gates if g.versus == "champion")
    assert (gate.verdict, gate.reason) == ("skipped", "the adapter is the champion itself")
    assert "champion" not in manifest.summary


@pytest.mark.parametrize(
    "change",
    [{"evaluation": {"max_new_tokens": 21}}, {"baseline_prompt": "List people."}, {"cost": {"serving_hour": 1.0}}],
)
def test_other_settings_are_another_evaluation(task: Task, chain: Chain, change: dict[str, Any]) -> None:
    training = chain.training()
    first = run(task, chain, training)
    data = task.model_dump()
    for key, value in change.items():
        data[key] = {**data[key], **value} if isinstance(value, dict) else value
    assert run(Task.model_validate(data), chain, training).artifact_id != first.artifact_id


def test_the_base_models_answers_serve_the_next_adapter_too(task: Task, chain: Chain) -> None:
    run(task, chain, chain.training("tr-1"))
    engine = RecordedEngine(good_adapter)
    second = run(task, chain, chain.training("tr-2"), chain.champion("tr-1"), engine)
    assert engine.stages == ["evaluating candidate on test", "evaluating champion on test"]
    assert any("earlier evaluation" in note and "Long prompt" in note for note in evidence_of(chain, second).notes)


class Killed(BaseException):
    """What a signal looks like from inside."""


class MortalEngine(RecordedEngine):
    def generate(self, conversations: Any, **options: Any) -> list[Completion]:
        if "few_shot" in options["stage"]:
            raise Killed
        return super().generate(conversations, **options)


def test_a_killed_evaluation_goes_on_where_it_was(task: Task, chain: Chain) -> None:
    training, champion = chain.training(), chain.champion()
    mortal = MortalEngine(good_adapter)
    with pytest.raises(Killed):
        run(task, chain, training, champion, mortal)
    assert chain.lake.list("people/evaluations/ev-") == []
    survivor = RecordedEngine(good_adapter)
    manifest = run(task, chain, training, champion, survivor)
    assert [*mortal.stages, *survivor.stages] == [
        f"evaluating {arm} on test" for arm in ("candidate", "champion", "prompted", "few_shot")
    ]
    assert evidence_of(chain, manifest).notes == []


def test_a_worse_adapter_is_refused_with_the_reason(task: Task, chain: Chain) -> None:
    def worse(question: str, adapter: Path | None) -> str:
        if adapter is not None and "training_runs" in str(adapter) and number_in(question) % 3:
            return "none"
        return good_adapter(question, adapter)

    manifest = run(task, chain, chain.training(), chain.champion(), RecordedEngine(worse))
    assert manifest.verdict == "fail"
    assert manifest.headline.startswith("Do not register: entity F1 is") and "below the champion" in manifest.headline
    assert "entity_f1 vs champion" in {g.name for g in manifest.blocking}


def test_a_champion_on_another_base_model_leaves_its_gate_open(task: Task, chain: Chain) -> None:
    champion = chain.champion(base_model_revision="r0")
    manifest = run(task, chain, chain.training(), champion)
    gate = next(g for g in manifest.gates if g.versus == "champion")
    assert gate.verdict == "inconclusive" and "one engine cannot run both" in gate.reason
    assert manifest.verdict == "inconclusive" and "champion" not in manifest.summary


def test_a_champion_that_was_trained_on_test_rows_is_told_of(task: Task, chain: Chain) -> None:
    old = chain.publish_dataset("ds-0", chain.test[:9], chain.train)
    manifest = run(task, chain, chain.training(), chain.champion(dataset=old.artifact_id))
    assert any("trained on 9 of these 120 rows" in note for note in evidence_of(chain, manifest).notes)


def test_an_adapter_of_another_dataset_is_not_evaluated(task: Task, chain: Chain) -> None:
    engine = RecordedEngine(good_adapter)
    with pytest.raises(BadInput, match=r"ds-0, but ds-1 was expected"):
        run(task, chain, chain.training(dataset="ds-0"), engine=engine)
    assert engine.stages == []


def test_adapters_get_their_own_prompt_and_weights(task: Task, chain: Chain) -> None:
    engine = RecordedEngine(good_adapter)
    run(task, chain, chain.training(), chain.champion(system_prompt="Old prompt."), engine)
    sent = {stage.split()[1]: conversations[0][0]["content"] for stage, conversations in engine.conversations.items()}
    assert sent == {
        "candidate": "List.",
        "champion": "Old prompt.",
        "prompted": task.baseline_prompt,
        "few_shot": task.baseline_prompt,
    }


def test_a_second_benchmark_is_reported_and_decides_nothing(task: Task, chain: Chain) -> None:
    data = task.model_dump()
    data["evaluation"]["benchmarks"] = [{"name": "main"}, {"name": "few", "max_rows": 40}]
    manifest = run(Task.model_validate(data), chain, chain.training())
    evidence = evidence_of(chain, manifest)
    assert [(b.name, b.rows) for b in evidence.benchmarks] == [("main", 120), ("few", 40)]
    assert {g.n for g in manifest.gates} == {120, 60}
    assert "Benchmark few" in chain.lake.get(f"{manifest.path}/report.html").decode()


def test_the_real_engine_answers_with_a_real_adapter(task: Task, chain: Chain, tiny_model: Path) -> None:
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    from finetune_platform.inference.engine import Engine

    training = chain.training()
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_model)
    adapter = chain.folder / "work" / "training_runs" / "tr-1" / "adapter"
    config = peft.LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
    peft.get_peft_model(model, config).save_pretrained(adapter)
    (adapter.parent / "manifest.json").write_bytes(training.to_bytes())
    data = task.model_dump()
    data["evaluation"] |= {"max_new_tokens": 3, "benchmarks": [{"name": "test", "max_rows": 6}]}
    engine: Any = Engine(tiny_model, dtype="float32", device="cpu")
    manifest = run(Task.model_validate(data), chain, training, engine=engine)
    usage = evidence_of(chain, manifest).benchmarks[0].arms[0].usage
    assert usage.device == "cpu" and 1 <= usage.completion_tokens <= 3 and usage.latency_ms["p50"] > 0


def test_rows_that_count_alike_are_a_baseline_for_production(task: Task, chain: Chain) -> None:
    """108 of 120 answers are right; entity F1 scores a row without entities 1, where nothing was claimed."""
    manifest = run(task, chain, chain.training())
    metrics = ["exact_match", "entity_f1", "not_measured"]
    found = row_baselines(chain.lake, task.name, manifest.artifact_id, metrics)
    assert set(found) == {"exact_match", "entity_f1"}
    value, lower = found["exact_match"]
    assert value == pytest.approx(0.9) and lower == pytest.approx(wilson(108, 120, 0.05).lower)
    table = pq.read_table(io.BytesIO(chain.lake.get(f"{manifest.path}/predictions.parquet"))).to_pylist()
    scores = [row["score_entity_f1"] for row in table if row["arm"] == "candidate"]
    assert None in scores
    assert found["entity_f1"][0] == pytest.approx(sum(1.0 if score is None else score for score in scores) / 120)
