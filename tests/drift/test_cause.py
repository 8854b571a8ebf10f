"""The suspected cause, by who speaks."""

import pytest

from finetune_platform.drift.cause import SPEAKS, TenantShare, suspected_cause

LOUD, SILENT = 1e6, 1.0
ONE_TENANT = TenantShare("acme", of_novel=0.95, of_others=0.3)


@pytest.mark.parametrize(
    ("loud", "tenant", "kind", "named"),
    [
        (["novelty of questions"], None, "input shift", "novelty of questions"),
        (["language", "answers", "errors"], None, "input shift", "language"),
        (["novelty of questions"], ONE_TENANT, "upstream change", "95% of the novel questions come from acme"),
        (["novelty of questions"], TenantShare("acme", 0.95, 0.9), "input shift", "novelty"),
        (["novelty of questions"], TenantShare("acme", 0.5, 0.3), "input shift", "novelty"),
        (["answers", "length of answers"], None, "output shift", "answers and length of answers"),
        (["refusals", "format"], ONE_TENANT, "output shift", "refusals"),
        (["errors", "answers"], None, "upstream change", "Errors changed"),
        (["latency", "errors"], None, "upstream change", "while the questions did not"),
        (["format"], None, "upstream change", "Format"),
    ],
)
def test_the_cause_follows_from_who_speaks(loud: list[str], tenant: TenantShare | None, kind: str, named: str) -> None:
    channels = ["novelty of questions", "mix of questions", "language", "answers", "length of answers", "latency"]
    told = dict.fromkeys([*channels, "format", "errors", "refusals"], SILENT) | {
        name: LOUD - place for place, name in enumerate(loud)
    }
    cause = suspected_cause(told, tenant)
    assert cause is not None and cause.kind == kind and named in cause.because


def test_where_nobody_speaks_nothing_is_suspected() -> None:
    assert suspected_cause({"novelty of questions": SPEAKS - 1, "answers": 1.0}, ONE_TENANT) is None
