"""Who calls: keys by a snapshot that costs no query, refused within a second of their revocation."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from identity_provider import AUDIENCE, IdentityProvider, new_key, raw_token
from sqlalchemy import create_engine, event, text

from finetune_platform.database import Database
from finetune_platform.errors import FinetuneError
from finetune_platform.serving import callers
from finetune_platform.serving.callers import Caller, Directory, Refused
from finetune_platform.serving.keys import ApiKey, create_key, revoke_key, rotate_key
from finetune_platform.serving.oidc import People


def create(database: Database, **overrides: Any) -> tuple[str, ApiKey]:
    given: dict[str, Any] = {"name": "shop", "roles": ["caller"], "tasks": ["tickets"], **overrides}
    return create_key(database, known_tasks=["tickets", "cities"], actor="cli:somebody", **given)


def bearer(key: str) -> str:
    return f"Bearer {key}"


def refusal(directory: Directory, header: str | None) -> Refused:
    with pytest.raises(Refused) as told:
        directory.authenticate(header)
    return told.value


def eventually(directory: Directory, header: str, good: bool, within_s: float) -> None:
    end = time.monotonic() + within_s
    while True:
        try:
            directory.authenticate(header)
            if good:
                return
        except Refused:
            if not good:
                return
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.fixture
def directory(database: Database) -> Iterator[Directory]:
    """Looking at an empty table of keys."""
    found = Directory(database)
    found.start()
    yield found
    found.stop()


def test_a_key_is_its_caller(database: Database, directory: Directory) -> None:
    key, made = create(
        database, roles=["caller", "auditor"], tenant="acme", requests_per_minute=5, tokens_per_minute=50
    )
    directory.look()
    caller = directory.authenticate(bearer(key))
    assert caller == Caller(made.key_id, f"key:{made.key_id}", "shop", made.roles, ("tickets",), "acme", 5, 50)
    assert caller.may("answer") and caller.may("read_audit") and not caller.may("change_routes")
    assert caller.may_use("tickets") and not caller.may_use("cities") and not caller.may_use("*")
    for scheme in ("bearer", "BEARER", "Bearer "):
        assert directory.authenticate(f"{scheme} {key} ") == caller


def test_a_key_for_every_task_may_use_those_of_tomorrow(database: Database, directory: Directory) -> None:
    key, _ = create(database, tasks=["*"])
    directory.look()
    assert directory.authenticate(bearer(key)).may_use("not_written_yet")


def test_a_permission_that_is_missing_is_a_403(database: Database, directory: Directory) -> None:
    key, _ = create(database)
    directory.look()
    caller = directory.authenticate(bearer(key))
    caller.require("answer")
    with pytest.raises(Refused) as told:
        caller.require("change_routes")
    assert told.value.status == 403 and "change_routes" in told.value.message
    assert told.value.headers["www-authenticate"] == 'Bearer realm="finetune", error="insufficient_scope"'


def test_every_bad_key_gets_the_same_answer(database: Database, directory: Directory) -> None:
    (good, made), (revoked, gone), (short, _) = (
        create(database),
        create(database),
        create(database, expires_at=datetime.now(UTC) + timedelta(seconds=0.2)),
    )
    revoke_key(database, gone.key_id, "cli:somebody", "x")
    time.sleep(0.25)
    directory.look()
    directory.authenticate(bearer(good))
    other_secret = f"ftk_{made.key_id}_{'A' * 43}"
    other_id = f"ftk_{'0' * 8}_{good.split('_', 2)[2]}"
    wrong = [revoked, short, other_secret, other_id, good[:-1], good + "A", good.upper(), "x", "é" * 40, "a.b.c"]
    answers = {(r.status, r.message, str(r.headers)) for r in (refusal(directory, bearer(key)) for key in wrong)}
    assert len(answers) == 1
    (answer,) = answers
    assert answer[0] == 401 and 'error="invalid_token"' in answer[2]
    assert not any(word in answer[1] for word in ("revoked", "expired", "unknown"))


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Basic dTpw", "ftk_00000000_x", "Bearer\tx"])
def test_no_key_is_told_how_to_send_one(directory: Directory, header: str | None) -> None:
    told = refusal(directory, header)
    assert told.status == 401 and "Authorization: Bearer" in told.message
    assert told.headers == {"www-authenticate": 'Bearer realm="finetune"'}


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=80) | st.from_regex(r"ftk_[0-9a-f]{8}_[\w\-]{43}", fullmatch=True) | st.just("x" * 100_000))
def test_any_header_is_refused_in_an_orderly_way(text: str) -> None:
    directory = Directory(Database("sqlite:///:memory:"))
    for header in (text, bearer(text)):
        assert refusal(directory, header).status == 401


def test_a_key_made_and_revoked_elsewhere_is_heard_of_within_a_second(
    database: Database, directory: Directory, database_url: str
) -> None:
    elsewhere = Database(database_url)
    key, made = create(elsewhere)
    eventually(directory, bearer(key), good=True, within_s=1.0)
    revoke_key(elsewhere, made.key_id, "cli:somebody", "leaked")
    eventually(directory, bearer(key), good=False, within_s=1.0)
    elsewhere.close()


def test_where_it_was_revoked_it_is_refused_at_once(database: Database) -> None:
    directory = Directory(database)
    key, made = create(database)
    directory.look()
    directory.authenticate(bearer(key))
    revoke_key(database, made.key_id, "cli:somebody", "leaked")
    directory.look()
    refusal(directory, bearer(key))


def test_a_rotated_key_ends_and_its_successor_is_good(database: Database) -> None:
    directory = Directory(database)
    (key, made), (slow, slower) = create(database), create(database)
    new, _ = rotate_key(database, made.key_id, "cli:somebody")
    slow_new, _ = rotate_key(database, slower.key_id, "cli:somebody", overlap_hours=1)
    directory.look()
    refusal(directory, bearer(key))
    for good in (new, slow, slow_new):
        directory.authenticate(bearer(good))
    later = Directory(database, clock=lambda: datetime.now(UTC) + timedelta(hours=1, seconds=1))
    later.look()
    refusal(later, bearer(slow))
    later.authenticate(bearer(slow_new))


def test_a_key_expires_without_a_look(database: Database) -> None:
    moment = [datetime.now(UTC)]
    directory = Directory(database, clock=lambda: moment[0])
    key, _ = create(database, expires_at=moment[0] + timedelta(hours=1))
    directory.look()
    directory.authenticate(bearer(key))
    moment[0] += timedelta(hours=1)
    refusal(directory, bearer(key))


def test_asking_costs_no_query_and_a_look_without_news_reads_no_keys(database: Database) -> None:
    directory = Directory(database)
    key, _ = create(database)
    directory.look()
    asked: list[str] = []
    event.listen(database._engine, "before_cursor_execute", lambda *a: asked.append(a[2]))
    for _ in range(1000):
        directory.authenticate(bearer(key))
    assert asked == []
    directory.look()
    assert asked and not any("api_keys" in statement for statement in asked)


def test_a_row_changed_by_hand_is_seen_by_the_next_full_read(
    database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = Directory(database)
    key, _ = create(database)
    directory.look()
    engine = create_engine(database_url)
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM api_keys"))
    engine.dispose()
    directory.look()
    directory.authenticate(bearer(key))
    monkeypatch.setattr(callers, "FULL_READ_S", 0.0)
    directory.look()
    refusal(directory, bearer(key))


def test_one_row_that_cannot_be_read_does_not_keep_the_others_in_force(
    database: Database, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    directory = Directory(database)
    (bad, worse), (key, made) = create(database), create(database)
    engine = create_engine(database_url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE api_keys SET roles = '7' WHERE key_id = :k"), {"k": worse.key_id})
    engine.dispose()
    directory.look()
    refusal(directory, bearer(bad))
    directory.authenticate(bearer(key))
    assert worse.key_id in caplog.text and bad not in caplog.text
    revoke_key(database, made.key_id, "cli:somebody", "x")
    directory.look()
    refusal(directory, bearer(key))


def test_the_last_keys_serve_on_while_the_database_is_away_and_new_ones_wait(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url, file, hidden = f"sqlite:///{tmp_path}/a/finetune.db", tmp_path / "a", tmp_path / "b"
    database = Database(url)
    key, _ = create(database)
    directory = Directory(database, poll_s=0.01)
    directory.start()
    database.close()
    file.rename(hidden)
    end = time.monotonic() + 10
    while "keys cannot be read" not in caplog.text:
        assert time.monotonic() < end
        database.close()
        time.sleep(0.01)
    with pytest.raises(FinetuneError):
        directory.look()
    directory.authenticate(bearer(key))
    later = Database(f"sqlite:///{hidden}/finetune.db")
    new, _ = create(later)
    later.close()
    refusal(directory, bearer(new))
    hidden.rename(file)
    eventually(directory, bearer(new), good=True, within_s=10)
    assert directory.age_s < 10 and caplog.text.count("keys cannot be read") == 1
    directory.stop()
    database.close()


def test_a_gateway_that_has_never_seen_the_database_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(FinetuneError):
        Directory(Database("postgresql+psycopg://nobody@127.0.0.1:1/nothing")).start()


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[IdentityProvider]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    found = IdentityProvider()
    found.keys = {"k": new_key("ES256", "k")}
    yield found
    found.stop()


def test_people_sign_in_beside_keys(tmp_path: Path, provider: IdentityProvider) -> None:
    database = Database(f"sqlite:///{tmp_path}/finetune.db")
    key, _ = create(database)
    directory = Directory(database, People(provider.issuer, AUDIENCE))
    directory.start()
    token = provider.token("k", "ES256", tasks=["tickets"])
    eventually(directory, bearer(token), good=True, within_s=10)
    person = directory.authenticate(bearer(token))
    person.require("change_routes")
    assert (person.actor, person.tasks, person.tenant) == ("oidc:u-1", ("tickets",), "")
    directory.authenticate(bearer(key))
    told = refusal(directory, bearer(provider.token("k", "ES256", aud="other")))
    assert (told.status, told.message) == (401, refusal(directory, bearer("x")).message)
    provider.status = 500
    directory._people._tried_at = float("-inf")  # type: ignore[union-attr]
    awaited = refusal(directory, bearer(raw_token({"alg": "ES256", "kid": "new"}, {})))
    assert (awaited.status, awaited.headers) == (503, {"retry-after": "1"})
    directory.stop()
    database.close()


def test_without_a_provider_a_token_is_as_good_as_none(directory: Directory, provider: IdentityProvider) -> None:
    assert refusal(directory, bearer(provider.token("k", "ES256"))).status == 401
