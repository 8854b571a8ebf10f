"""API keys: shown once, kept as a hash, with a scope that cannot be mistyped, each change in the audit log."""

import re
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from finetune_platform import audit
from finetune_platform.database import Database
from finetune_platform.errors import BadInput
from finetune_platform.serving.keys import ApiKey, create_key, list_keys, revoke_key, rotate_key
from finetune_platform.serving.permissions import ALLOWED, EVERY_TASK, PERMISSIONS, ROLES, allows

WEEK = timedelta(days=7)


def create(database: Database, **overrides: Any) -> tuple[str, ApiKey]:
    given: dict[str, Any] = {"name": "shop", "roles": ["caller"], "tasks": ["tickets"], **overrides}
    return create_key(database, known_tasks=["tickets", "cities"], actor="cli:somebody", **given)


def logged(database: Database) -> list[tuple[str, str, str]]:
    return [(entry.actor, entry.action, entry.subject) for entry in audit.entries(database)]


def test_a_key_has_256_random_bits_and_its_id_in_plain_sight(database: Database) -> None:
    key, made = create(database)
    assert re.fullmatch(r"ftk_[0-9a-f]{8}_[A-Za-z0-9_-]{43}", key)
    assert key.split("_")[1] == made.key_id
    assert len({create(database)[0].split("_", 2)[2] for _ in range(20)}) == 20


def test_the_key_itself_is_nowhere_in_the_database(database: Database, database_url: str) -> None:
    key, _ = create(database)
    again, _ = rotate_key(database, key.split("_")[1], "cli:somebody")
    engine = create_engine(database_url)
    with engine.connect() as connection:
        everything = "".join(str(connection.execute(text(f"SELECT * FROM {table}")).all()) for table in TABLES)
    engine.dispose()
    assert "shop" in everything
    for secret in (key, again):
        assert secret not in everything and secret.split("_", 2)[2] not in everything


TABLES = ("api_keys", "audit_log")


def test_what_was_asked_for_is_what_is_listed(database: Database) -> None:
    until = datetime.now(UTC) + WEEK
    scope: dict[str, Any] = {
        "roles": ["operator", "caller"],
        "tasks": ["tickets", "cities"],
        "tenant": "acme-2",
        "requests_per_minute": 60,
        "tokens_per_minute": 9000,
        "expires_at": until,
    }
    _, made = create(database, **scope)
    (listed,) = list_keys(database)
    assert listed == made
    assert (listed.name, listed.roles, listed.tasks) == ("shop", ("caller", "operator"), ("cities", "tickets"))
    assert (listed.tenant, listed.requests_per_minute, listed.tokens_per_minute) == ("acme-2", 60, 9000)
    assert (listed.expires_at, listed.revoked_at) == (until, None)
    (entry,) = audit.entries(database)
    assert entry.details["tasks"] == ["cities", "tickets"] and entry.details["tenant"] == "acme-2"


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"tasks": ["ticket"]}, r'ticket: no such task; did you mean "tickets"\?'),
        ({"roles": ["operater"]}, r'operater: no such role; did you mean "operator"\?'),
        ({"tasks": []}, "at least one task"),
        ({"roles": []}, "at least one role"),
        ({"tasks": ["*", "tickets"]}, "already means every task"),
        ({"tenant": "a/b"}, "tenant: 'a/b'"),
        ({"tenant": "x" * 65}, "tenant"),
        ({"tenant": " "}, "tenant"),
        ({"name": ""}, "name"),
        ({"name": "  "}, "name"),
        ({"name": "x" * 129}, "name"),
        ({"name": "shop\x1b[2J"}, "name"),
        ({"requests_per_minute": 0}, "requests_per_minute: 0"),
        ({"tokens_per_minute": -1}, "tokens_per_minute: -1"),
        ({"tokens_per_minute": 2**31}, "tokens_per_minute"),
        ({"expires_at": datetime(2020, 1, 1, tzinfo=UTC)}, "is over"),
    ],
)
def test_a_scope_that_cannot_be_makes_no_key(database: Database, wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(BadInput, match=told):
        create(database, **wrong)
    assert list_keys(database) == [] and logged(database) == []


def test_a_key_for_every_task(database: Database) -> None:
    assert create(database, tasks=["*"])[1].tasks == (EVERY_TASK,)


def test_a_revoked_key_stays_revoked_and_says_since_when(database: Database) -> None:
    _, made = create(database)
    ended = revoke_key(database, made.key_id, "cli:other", "left the team")
    assert ended.state(datetime.now(UTC)) == "revoked"
    assert revoke_key(database, made.key_id, "cli:third", "again") == ended
    assert logged(database) == [
        ("cli:somebody", "key.create", made.key_id),
        ("cli:other", "key.revoke", made.key_id),
    ]
    assert [entry.reason for entry in audit.entries(database)] == ["", "left the team"]


def test_a_revocation_needs_a_key_and_a_reason(database: Database) -> None:
    key, made = create(database)
    with pytest.raises(BadInput, match="needs a reason"):
        revoke_key(database, made.key_id, "cli:somebody", " ")
    almost = made.key_id[:-1] + ("0" if made.key_id[-1] != "0" else "1")
    with pytest.raises(BadInput, match=f'no such key id; did you mean "{made.key_id}"'):
        revoke_key(database, almost, "cli:somebody", "x")
    with pytest.raises(BadInput) as told:
        revoke_key(database, key, "cli:somebody", "somebody pastes the key itself")
    assert key.split("_", 2)[2] not in str(told.value) and made.key_id in str(told.value)
    with pytest.raises(BadInput, match="cannot hold"):
        revoke_key(database, made.key_id, "cli:somebody", "a\0b")
    assert list_keys(database)[0].revoked_at is None


def test_rotation_keeps_the_scope_and_ends_the_old_key(database: Database) -> None:
    _, old = create(database, roles=["operator"], tasks=["cities"], tenant="acme", requests_per_minute=5)
    key, new = rotate_key(database, old.key_id, "cli:other")
    kept = {"key_id", "created_at"}
    assert new.model_dump(exclude=kept) == old.model_dump(exclude=kept) and new.key_id != old.key_id
    ended = next(k for k in list_keys(database) if k.key_id == old.key_id)
    assert ended.revoked_at is not None
    entry = list(audit.entries(database))[-1]
    assert (entry.actor, entry.action, entry.subject) == ("cli:other", "key.rotate", old.key_id)
    assert entry.details["new"]["key_id"] == new.key_id and key not in str(entry.details)
    with pytest.raises(BadInput, match="it is revoked"):
        rotate_key(database, old.key_id, "cli:other")


def test_with_an_overlap_both_keys_are_good_for_a_while(database: Database) -> None:
    _, old = create(database)
    before = datetime.now(UTC)
    rotate_key(database, old.key_id, "cli:other", overlap_hours=24)
    ended = next(k for k in list_keys(database) if k.key_id == old.key_id)
    assert ended.revoked_at is None and ended.expires_at is not None
    assert timedelta(0) <= ended.expires_at - before - timedelta(hours=24) < timedelta(minutes=1)


def test_an_overlap_gives_nobody_more_time(database: Database) -> None:
    until = datetime.now(UTC) + timedelta(hours=1)
    _, old = create(database, expires_at=until)
    _, new = rotate_key(database, old.key_id, "cli:other", overlap_hours=24)
    assert next(k for k in list_keys(database) if k.key_id == old.key_id).expires_at == until
    assert new.expires_at is not None
    assert abs(new.expires_at - datetime.now(UTC) - timedelta(hours=1)) < timedelta(minutes=1)


@pytest.mark.parametrize("hours", [-1, float("nan"), float("inf"), 9000])
def test_an_overlap_that_cannot_be_changes_nothing(database: Database, hours: float) -> None:
    _, made = create(database)
    with pytest.raises(BadInput, match="overlap"):
        rotate_key(database, made.key_id, "cli:other", overlap_hours=hours)
    assert list_keys(database) == [made]


def test_keys_changed_by_many_at_once(database: Database) -> None:
    made = [create(database)[1] for _ in range(4)]

    def change(number: int) -> None:
        if number % 2:
            revoke_key(database, made[number // 2].key_id, f"cli:{number}", "x")
        else:
            create(database)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(change, range(8)))
    states = [key.state(datetime.now(UTC)) for key in list_keys(database)]
    assert sorted(states) == ["active"] * 4 + ["revoked"] * 4
    assert len(logged(database)) == 12 and audit.verify(database).broken == []


def test_who_may_do_what() -> None:
    assert set(ALLOWED) == set(ROLES)
    table = {role: {p for p in PERMISSIONS if allows([role], p)} for role in ROLES}
    assert table == {
        "caller": {"answer", "feedback"},
        "operator": {"read_status", "change_routes"},
        "reviewer": {"review"},
        "lead": {"review", "adjudicate"},
        "auditor": {"read_status", "read_audit"},
    }
    assert not allows([], "answer") and not allows(["admin"], "answer")
    assert not any(allows(ROLES, permission) for permission in ["manage_keys"])  # type: ignore[arg-type]
