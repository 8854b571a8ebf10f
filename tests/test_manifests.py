"""Manifests come back as written, refuse what they do not know, and say which gates block."""

import re
from datetime import datetime

import pytest
from pydantic import ValidationError

from finetune_platform.errors import BadInput
from finetune_platform.manifests import (
    EvaluationManifest,
    FunnelStep,
    GateResult,
    Manifest,
    RawManifest,
    SourceRecord,
    SplitRecord,
    expect_same,
)


def raw_manifest() -> RawManifest:
    return RawManifest(
        artifact_id="raw-1",
        task="t",
        code_version="1",
        rows=2,
        sources=[SourceRecord(uri="ü.jsonl", sha256="0" * 64, format="messages", rows=2, rejected=1)],
        funnel=[FunnelStep(step="read", rows_in=3, rows_out=2, reasons={"wrong_role": 1})],
    )


def gate(verdict: str, tier: str) -> GateResult:
    empty = dict.fromkeys(("versus", "observed", "lower", "upper", "minimum_detectable_effect"))
    fields = {"name": f"{verdict}-{tier}", "metric": "exact_match", "slice": "all", "limit": 0.0, "n": 1, "reason": ""}
    return GateResult.model_validate({**empty, **fields, "verdict": verdict, "tier": tier})


def test_a_manifest_comes_back_as_written() -> None:
    assert RawManifest.from_bytes(raw_manifest().to_bytes()) == raw_manifest()


def test_a_moment_of_making_is_written_with_its_zone() -> None:
    offset = datetime.fromisoformat(raw_manifest().created_at).utcoffset()
    assert offset is not None and not offset


def test_what_a_manifest_does_not_know_is_refused() -> None:
    data = raw_manifest().to_bytes()
    with pytest.raises(ValidationError, match="colour"):
        RawManifest.from_bytes(data.replace(b'"rows": 2,', b'"rows": 2, "colour": 1,', 1))
    with pytest.raises(ValidationError, match="verdict"):
        EvaluationManifest.from_bytes(data)


@pytest.mark.parametrize("kind", Manifest.__subclasses__())
def test_every_kind_has_a_folder_of_its_own_below_the_task(kind: type[Manifest]) -> None:
    path = kind.path_of("contract_entities", "xx-1")
    assert re.fullmatch(r"contract_entities/\w+/xx-1", path)
    assert len({k.path_of("t", "x") for k in Manifest.__subclasses__()}) == len(Manifest.__subclasses__())


def test_only_a_pass_or_a_skip_of_a_hard_gate_lets_an_adapter_in() -> None:
    gates = [gate(v, t) for v in ("pass", "fail", "inconclusive", "skipped") for t in ("hard", "warn")]
    blocking = EvaluationManifest.model_construct(gates=gates).blocking
    assert [g.name for g in blocking] == ["fail-hard", "inconclusive-hard"]


def test_records_that_disagree_stop_the_run_with_both_values() -> None:
    expect_same("chat template", "aaa", "aaa", "ad-1")
    with pytest.raises(BadInput, match="ad-1: chat template is bbb, but aaa was expected"):
        expect_same("chat template", "aaa", "bbb", "ad-1")


def test_a_split_tells_its_kinds_only_where_there_are_several() -> None:
    split = SplitRecord(rows=1200, groups=3, sha256="0" * 64)
    assert split.rows_in_words == "1,200"
    assert split.model_copy(update={"kinds": {"sft": 1200}}).rows_in_words == "1,200"
    both = split.model_copy(update={"kinds": {"sft": 1100, "text": 100}})
    assert both.rows_in_words == "1,200 (1,100 sft, 100 text)"
