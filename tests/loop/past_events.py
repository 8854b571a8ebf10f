"""What has happened to a task, as tests of the loop need it: manifests in a lake, records in a database."""

from finetune_platform.database import Database
from finetune_platform.evaluation.evidence import ArmEvidence, BenchmarkEvidence, Evidence, Value
from finetune_platform.evaluation.usage import Usage
from finetune_platform.lake import Lake
from finetune_platform.manifests import EvaluationManifest, Manifest
from finetune_platform.manifests_drift import DriftManifest
from finetune_platform.manifests_training import SearchRecord, TrainingManifest

NOON = "2026-01-01T12:00:00+00:00"


def an_alarm(lake: Lake, database: Database, task: str, headline: str = "drift since noon") -> DriftManifest:
    report = DriftManifest(
        artifact_id="dr-1", task=task, parents={"drift_reference": "rf-1"}, code_version="1", status="alarm",
        headline=headline, champion="base", tick=1, since=NOON, until=NOON, rows=1, counted=1, e_value=400.0,
        limit=365.0, channels=[],
    )  # fmt: skip
    _record(lake, database, report, "drift_report")
    return report


def a_training(
    lake: Lake,
    database: Database,
    task: str,
    seconds: float,
    run: str = "tr-1",
    searched: SearchRecord | None = None,
) -> None:
    manifest = TrainingManifest(
        artifact_id=run, task=task, code_version="1", base_model="tiny", base_model_revision="r1", system_prompt="",
        chat_template_sha256="c" * 64, stages=[], steps=1, train_rows=1, supervised_tokens=1, trainable_parameters=1,
        first_loss=1.0, final_loss=1.0, validation_loss=None, train_seconds=seconds, rows_per_second=1.0, preflight={},
        golden=[], versions={}, device="cpu", searched=searched,
    )  # fmt: skip
    _record(lake, database, manifest, "trained_adapter")


def an_evaluation(lake: Lake, database: Database, task: str, cost_per_1000: float | None = 0.2) -> None:
    """The adapter at 0.9 with 60 tokens a request, the long prompt at 0.5 with 300 and four times the price."""
    manifest = EvaluationManifest(
        artifact_id="ev-1", task=task, code_version="1", verdict="pass", headline="register it", gates=[],
        summary={}, generation_seconds=1.0,
    )  # fmt: skip
    arms = [_arm("candidate", 0.9, 50, cost_per_1000), _arm("prompted", 0.5, 290, cost_per_1000 and 4 * cost_per_1000)]
    evidence = Evidence(
        evaluation_id="ev-1", task=task, description="", verdict="pass", headline="register it",
        primary_metric="exact_match", currency="EUR", requests_per_month=0, metrics=[], gates=[], conditions=[],
        benchmarks=[
            BenchmarkEvidence(name="test", split="test", rows=120, groups=120, arms=arms, comparisons=[], strata=[])
        ],
        examples=[], chosen_how="", compares_entities=False, notes=[], prompts={}, provenance={},
    )  # fmt: skip
    lake.put(f"{manifest.path}/report.json", evidence.model_dump_json().encode())
    _record(lake, database, manifest, "evaluation_report")


def _arm(name: str, value: float, prompt_tokens: float, cost_per_1000: float | None) -> ArmEvidence:
    usage = Usage(
        prompt_tokens=prompt_tokens, completion_tokens=10, latency_ms={}, in_flight=1, tokens_per_second=1,
        requests_per_second=1, cut_off=0, cost_per_1000=cost_per_1000, cost_per_month=None, device="cpu",
        measured_at=NOON, reused=False,
    )  # fmt: skip
    measured = Value(value=value, lower=value - 0.1, upper=value + 0.05, rows=120, groups=120, method="wilson")
    metrics = {"exact_match": measured}
    return ArmEvidence(name=name, title=name, description="", adapter_id=None, metrics=metrics, usage=usage)


def _record(lake: Lake, database: Database, manifest: Manifest, asset: str) -> None:
    lake.put(f"{manifest.path}/manifest.json", manifest.to_bytes())
    database.record_artifact(manifest, asset, "", None)
