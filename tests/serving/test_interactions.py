"""What the log keeps of an interaction, what it replaces, and what an acknowledgement is worth."""

import json
from dataclasses import fields
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from logged_rows import feedback, interaction, put_in

from finetune_platform.lake import Lake
from finetune_platform.serving.interactions import (
    FEEDBACK_SCHEMA,
    INTERACTION_SCHEMA,
    Interaction,
    Sampler,
    feedback_path,
    interactions_path,
)
from finetune_platform.serving.stored_rows import stored, tables_of

MAIL, CARD = "jo.doe@example.com", "4111 1111 1111 1111"


def through(row: Any, redact: bool = True) -> dict[str, Any]:
    """The row as the table has it."""
    (table,) = tables_of([json.loads(json.dumps(stored(row, redact)))]).values()
    (found,) = table.to_pylist()
    return found


def test_a_row_of_the_table_has_every_field_and_the_day_in_utc() -> None:
    east = timezone(timedelta(hours=9))
    row = interaction(
        tenant="acme",
        session="s-1",
        timestamp=datetime(2026, 3, 1, 2, tzinfo=east),
        prompt_tokens=7,
        format_valid=False,
        streamed=True,
    )
    found = through(row)
    assert list(found) == [field.name for field in fields(Interaction)] + ["date"]
    assert found["timestamp"] == row.timestamp
    assert str(found["date"]) == "2026-02-28"
    assert json.loads(found["request"]) == row.request
    assert json.loads(found["response"]) == row.response
    same = ("tenant", "session", "prompt_tokens", "completion_tokens", "latency_ms", "error", "format_valid")
    assert {name: found[name] for name in same} == {name: getattr(row, name) for name in same}
    assert (found["streamed"], found["refused"], json.loads(found["redactions"])) == (True, False, {})


def test_the_paths_and_columns_that_readers_rely_on() -> None:
    assert (interactions_path("topics"), feedback_path("topics")) == ("topics/interactions", "topics/feedback")
    assert {"interaction_id", "timestamp", "task", "adapter_id", "arm", "sampled_because"} <= set(
        INTERACTION_SCHEMA.names
    )
    assert {"interaction_id", "rating", "positive", "correction", "accepted", "comment"} <= set(FEEDBACK_SCHEMA.names)


def test_personal_data_are_replaced_wherever_somebody_wrote_them_and_counted() -> None:
    row = interaction(
        request={"messages": [{"role": "user", "content": f"Write to {MAIL}"}], "user": MAIL},
        response={"choices": [{"message": {"content": f"Done, {MAIL}"}}]},
        error=f"upstream: cannot answer 'Write to {MAIL}'",
        session=MAIL,
    )
    found = through(row)
    assert MAIL not in str(found)
    assert sum(json.loads(found["redactions"]).values()) == 5
    said = through(feedback(comment=f"call {MAIL}", correction=f"{MAIL}!"))
    assert MAIL not in str(said)
    kept = through(row, redact=False)
    assert MAIL in kept["request"] and MAIL in kept["response"] and kept["session"] == MAIL
    assert kept["redactions"] is None


def test_sessions_named_by_personal_data_stay_apart() -> None:
    names = [through(interaction(session=name))["session"] for name in (MAIL, MAIL, f"x{MAIL}", "s-1")]
    assert names[0] == names[1] != names[2]
    assert names[3] == "s-1"


@pytest.mark.parametrize("odd", ["\ud800", 2**80, "ä\x00\u2028", [[[]]], {"a": 1e300}])
def test_whatever_json_a_caller_sends_is_kept(odd: Any) -> None:
    found = through(interaction(request={"odd": odd}), redact=False)
    assert json.loads(found["request"]) == {"odd": odd}


def test_text_that_is_not_unicode_is_kept_escaped() -> None:
    assert through(interaction(error="bad \ud800", session="\udfff"))["error"] == "bad \\ud800"


def test_rows_of_other_versions_are_read() -> None:
    record = stored(interaction(), redact=False)
    del record["row"]["gateway"]
    record["row"]["later"] = 1
    (table,) = tables_of([record]).values()
    assert table.schema == INTERACTION_SCHEMA
    assert table["gateway"].to_pylist() == [None]


def test_daft_and_pandas_read_the_days_that_are_asked_for(lake: Lake) -> None:
    import daft

    put_in(lake, *(interaction(n, timestamp=datetime(2026, 3, 1 + n, 12, tzinfo=UTC)) for n in range(3)))
    path, day = interactions_path("topics"), date(2026, 3, 2)
    frame = lake.table(path).to_pandas(filters=[("date", ">=", day)])
    assert sorted(frame["interaction_id"]) == ["in-1", "in-2"]
    if "://" not in lake.url:
        found = daft.read_deltalake(lake.url_of(path)).where(daft.col("date") >= day).to_pydict()
        assert sorted(found["interaction_id"]) == ["in-1", "in-2"]


@hypothesis_settings(max_examples=30, deadline=None)
@given(number=st.integers(0, 10**6), small=st.floats(0, 1), more=st.floats(0, 1))
def test_a_larger_share_keeps_what_a_smaller_one_kept(number: int, small: float, more: float) -> None:
    small, large = sorted((small, more))
    name = f"in-{number}"
    if Sampler("topics", small).reason(name, "champion") == "share":
        assert Sampler("topics", large).reason(name, "champion") == "share"


def test_the_share_is_what_was_asked_and_errors_canary_and_shadow_are_always_kept() -> None:
    sampler = Sampler("topics", 0.05)
    names = [f"in-{n}" for n in range(20_000)]
    kept = [name for name in names if sampler.reason(name, "champion")]
    assert 0.045 < len(kept) / len(names) < 0.055
    assert kept == [name for name in names if Sampler("topics", 0.05).reason(name, "base")]
    assert Sampler("topics", 0.0).reason("in-1", "champion") is None
    assert Sampler("topics", 1.0).reason("in-1", "tenant") == "share"
    none = Sampler("topics", 0.0)
    assert none.reason("in-1", "canary") == "canary"
    assert none.reason("in-1", "shadow") == "shadow"
    assert none.reason("in-1", "champion", error="upstream away") == "error"
