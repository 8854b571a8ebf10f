"""The audit log on SQLite and PostgreSQL: complete under many writers, and no tampering goes unseen."""

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import create_engine, text

from finetune_platform import audit
from finetune_platform.audit import GENESIS, AuditEntry, digest_of, entries, record, verify
from finetune_platform.database import Database
from finetune_platform.errors import BadInput

MANY = 7


def write(database: Database, count: int, subject: str = "tickets") -> None:
    for number in range(count):
        with database.session() as session:
            record(
                session,
                actor="cli:somebody",
                action="route.canary",
                subject=subject,
                reason=f"step {number}",
                details={"share": 0.05 * number},
            )


def run_sql(database_url: str, *statements: str, **values: Any) -> None:
    engine = create_engine(database_url)
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement), values)
    engine.dispose()


def places(database: Database, head: str | None = None) -> list[int]:
    return sorted({broken.entry for broken in verify(database, head).broken})


@pytest.fixture
def written(database: Database) -> Database:
    """Seven entries."""
    write(database, MANY)
    assert places(database) == []
    return database


def test_what_was_done_is_told_in_order(database: Database) -> None:
    write(database, 2)
    write(database, 1, "other")
    told = [(e.actor, e.action, e.subject, e.reason) for e in entries(database)]
    assert told[0] == ("cli:somebody", "route.canary", "tickets", "step 0") and len(told) == 3
    assert [e.subject for e in entries(database, "other")] == ["other"]
    assert list(entries(database, "nobody")) == []


def test_an_empty_log_holds(database: Database) -> None:
    assert verify(database) == (0, GENESIS, [])
    assert verify(database, GENESIS).broken == []


def test_an_entry_is_lost_with_what_it_tells_of(database: Database) -> None:
    write(database, 1)
    with pytest.raises(RuntimeError), database.session() as session:
        record(session, actor="a", action="b", subject="c")
        raise RuntimeError("stop")
    write(database, 1)
    assert [e.reason for e in entries(database)] == ["step 0", "step 0"]
    assert places(database) == []


def test_pages_are_seamless(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    for size in (1, 2, 3, 4):
        monkeypatch.setattr(audit, "PAGE", size)
        write(database, 1)
        assert len(list(entries(database))) == verify(database).entries == size
        assert places(database) == []


WRITER = """
import sys
from concurrent.futures import ThreadPoolExecutor
from finetune_platform.audit import record
from finetune_platform.database import Database

_, url, name = sys.argv
database = Database(url)
sys.stdin.readline()

def write(thread):
    for number in range(5):
        with database.session() as session:
            record(session, actor=f"{name}-{thread}", action="a.b", subject="s", details={"number": number})

with ThreadPoolExecutor(2) as pool:
    list(pool.map(write, range(2)))
"""


def test_the_chain_holds_under_eight_writers_in_four_processes(database: Database, database_url: str) -> None:
    database.upgrade()
    command = [sys.executable, "-c", WRITER, database_url]
    started = [subprocess.Popen([*command, str(n)], stdin=subprocess.PIPE, text=True) for n in range(4)]
    for process in started:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.close()
    assert [process.wait() for process in started] == [0, 0, 0, 0]
    found = list(entries(database))
    assert verify(database) == (40, found[-1].digest, [])
    for actor in {entry.actor for entry in found}:
        assert [e.details["number"] for e in found if e.actor == actor] == list(range(5))
    assert len({entry.actor for entry in found}) == 8


def test_entries_written_while_it_is_verified_are_no_break(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "PAGE", 2)
    write(database, 4)
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write, database, 20)
        while not writing.done():
            assert places(database) == []
        writing.result()
    assert verify(database).entries == 24


@pytest.mark.parametrize(
    "change",
    [
        "reason = 'nothing'",
        "actor = 'key:00000000'",
        "action = 'route.kill'",
        "subject = 'other'",
        "details = '{\"share\": 0.5}'",
        "at = '2026-01-01 00:00:00.000000'",
        "digest = repeat64",
    ],
)
def test_a_changed_entry_is_named(written: Database, database_url: str, change: str) -> None:
    run_sql(database_url, f"UPDATE audit_log SET {change.replace('repeat64', repr('1' * 64))} WHERE id = 3")
    assert places(written)[0] == 3


def test_a_changed_entry_whose_digest_was_made_right_is_found_at_the_next(written: Database, database_url: str) -> None:
    third = list(entries(written))[2]
    third.reason = "nothing"
    run_sql(database_url, "UPDATE audit_log SET reason = 'nothing', digest = :d WHERE id = 3", d=digest_of(third))
    (broken,) = verify(written).broken
    assert broken.entry == 4 and "does not follow entry 3" in broken.problem


def test_a_link_that_was_mended_after_a_change_is_found(written: Database, database_url: str) -> None:
    third = list(entries(written))[2]
    third.reason = "nothing"
    made_right = digest_of(third)
    run_sql(database_url, "UPDATE audit_log SET reason = 'nothing', digest = :d WHERE id = 3", d=made_right)
    run_sql(database_url, "UPDATE audit_log SET previous = :d WHERE id = 4", d=made_right)
    assert places(written) == [4]


@pytest.mark.parametrize(("removed", "told"), [("1", [2]), ("3", [4]), ("2, 3, 4", [5])])
def test_removed_entries_are_found(written: Database, database_url: str, removed: str, told: list[int]) -> None:
    run_sql(database_url, f"DELETE FROM audit_log WHERE id IN ({removed})")
    assert places(written) == told


def test_an_inserted_entry_is_found_wherever_it_is_put(written: Database, database_url: str) -> None:
    columns = "at, actor, action, subject, reason, details, previous, digest"
    copy = f"INSERT INTO audit_log (id, {columns}) SELECT :to, {columns} FROM audit_log WHERE id = 3"
    for place in (-5, 0, 100):
        run_sql(database_url, copy, to=place)
        assert place in places(written)
        run_sql(database_url, "DELETE FROM audit_log WHERE id = :to", to=place)
        assert places(written) == []


def test_reordered_entries_are_found(written: Database, database_url: str) -> None:
    swap = [f"UPDATE audit_log SET id = {new} WHERE id = {old}" for old, new in ((3, 99), (4, 3), (99, 4))]
    run_sql(database_url, *swap)
    assert places(written) == [3, 4, 5]


def test_an_end_that_was_cut_off_is_found_with_the_head_that_was_noted(written: Database, database_url: str) -> None:
    head = verify(written).head
    assert places(written, head) == []
    write(written, 1)
    assert places(written, head) == [], "the log may grow on"
    run_sql(database_url, f"DELETE FROM audit_log WHERE id >= {MANY}")
    assert places(written) == [], "nothing else tells"
    assert places(written, head) == [0]
    run_sql(database_url, "DELETE FROM audit_log")
    assert places(written, head) == [0]


def test_a_log_written_anew_is_found_with_the_head(written: Database, database_url: str) -> None:
    head = verify(written).head
    run_sql(database_url, "DELETE FROM audit_log")
    write(written, MANY)
    assert places(written) == [] and places(written, head) == [0]


UNREADABLE = {
    "sqlite": ["details = '{'", "details = '[1'", "at = 'yesterday'", "at = 5", "reason = x'00ff'", "details = ''"],
    "postgresql": ["details = '[]'", "details = 'null'", "details = '{\"share\": 1e999}'"],
}


def test_a_row_that_cannot_be_read_is_named_and_the_rest_is_still_checked(written: Database, database_url: str) -> None:
    for change in UNREADABLE[database_url.partition(":")[0].partition("+")[0]]:
        run_sql(database_url, "CREATE TABLE kept AS SELECT * FROM audit_log")
        run_sql(database_url, f"UPDATE audit_log SET {change} WHERE id = 3")
        assert places(written) == [3], change
        run_sql(database_url, "DELETE FROM audit_log WHERE id = 6")
        assert places(written) == [3, 7], change
        run_sql(database_url, "DELETE FROM audit_log", "INSERT INTO audit_log SELECT * FROM kept", "DROP TABLE kept")
        assert places(written) == []


def test_a_listing_that_meets_such_a_row_leads_to_verify(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/a.db"
    database = Database(url)
    write(database, 2)
    run_sql(url, "UPDATE audit_log SET details = '{' WHERE id = 1")
    with pytest.raises(BadInput, match=r"finetune audit verify"):
        list(entries(database))
    database.close()


@pytest.mark.parametrize(
    "moment",
    [
        datetime(2026, 3, 29, 1, 30, 0, 1, tzinfo=UTC),
        datetime(2026, 3, 29, 1, 30, 0, 999_999, tzinfo=UTC),
        datetime(2026, 3, 29, 1, 30, 0, 120_000, tzinfo=UTC),
        datetime(2026, 3, 29, 1, 30, tzinfo=UTC),
        datetime(2026, 3, 29, 1, 30, 0, 5, tzinfo=timezone(timedelta(hours=5, minutes=45))),
    ],
)
def test_moments_keep_their_microseconds(database: Database, moment: datetime, monkeypatch: pytest.MonkeyPatch) -> None:
    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return moment

    monkeypatch.setattr(audit, "datetime", Clock)
    write(database, 2)
    assert [entry.at for entry in entries(database)] == [moment, moment]
    assert places(database) == []


NUMBERS = st.floats(allow_nan=False, allow_infinity=False) | st.integers()
WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=12,
)
COLUMN_WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)


@pytest.fixture(scope="module")
def module_databases(postgres_server: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Database]]:
    """One database of each kind for all examples of a property."""
    import psycopg

    with psycopg.connect(postgres_server.get_uri(), autocommit=True) as connection:
        connection.execute("CREATE DATABASE audit_examples")
    uri = str(postgres_server.get_uri(database="audit_examples")).replace("postgresql://", "postgresql+psycopg://")
    opened = [Database(uri), Database(f"sqlite:///{tmp_path_factory.mktemp('audit')}/finetune.db")]
    yield opened
    for database in opened:
        database.close()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(details=st.dictionaries(WORDS, VALUES, max_size=5), actor=COLUMN_WORDS, reason=COLUMN_WORDS)
def test_any_details_have_the_same_digest_when_read_back(
    module_databases: list[Database], details: dict[str, Any], actor: str, reason: str
) -> None:
    for database in module_databases:
        with database.session() as session:
            made = record(session, actor=actor, action="a.b", subject="s", reason=reason, details=details)
        with database.reading() as session:
            found = session.get(AuditEntry, made.id)
            assert found is not None
            assert digest_of(found) == found.digest == made.digest
            assert found.details == details and (found.actor, found.reason) == (actor, reason)


def test_the_examples_make_one_whole_chain(module_databases: list[Database]) -> None:
    for database in module_databases:
        write(database, 1)
        assert places(database) == []


@pytest.mark.parametrize("details", [{"tasks": ("a", "b")}, {10: "x", 9: "y"}, {"at": {1: {2: (3,)}}}])
def test_details_that_json_writes_differently_keep_their_digest(database: Database, details: dict[Any, Any]) -> None:
    with database.session() as session:
        record(session, actor="a", action="a.b", subject="s", details=details)
    assert places(database) == []


def test_what_happens_to_the_callers_details_afterwards_does_not_matter(database: Database) -> None:
    details = {"tasks": ["a"]}
    with database.session() as session:
        record(session, actor="a", action="a.b", subject="s", details=details)
        details["tasks"].append("b")
    (entry,) = entries(database)
    assert entry.details == {"tasks": ["a"]} and places(database) == []


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("actor", "x" * 129, "actor is 129 characters long"),
        ("action", "x" * 65, "action is 65"),
        ("subject", "x" * 129, "subject is 129"),
        ("reason", "a\0b", "reason has characters"),
        ("actor", "\ud800", "actor has characters"),
    ],
)
def test_what_one_database_could_not_hold_is_refused_by_both(
    database: Database, field: str, value: str, told: str
) -> None:
    given = {"actor": "a", "action": "a.b", "subject": "s", "reason": "", field: value}
    with pytest.raises(BadInput, match=told), database.session() as session:
        record(session, **given)  # type: ignore[arg-type]
    write(database, 1)
    assert verify(database).entries == 1


def test_a_number_that_json_has_not_is_refused(database: Database) -> None:
    with pytest.raises(ValueError, match="JSON"), database.session() as session:
        record(session, actor="a", action="a.b", subject="s", details={"share": float("nan")})
    assert verify(database).entries == 0
