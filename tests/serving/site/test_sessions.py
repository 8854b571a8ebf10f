"""Who is signed in at a site, and who has to wait before the next guess."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_platform.database import Database
from finetune_platform.serving.callers import Directory, Refused
from finetune_platform.serving.keys import create_key, revoke_key
from finetune_platform.serving.permissions import Permission
from finetune_platform.serving.site import sessions as module
from finetune_platform.serving.site.guesses import MOST, WINDOW_S, Guesses
from finetune_platform.serving.site.sessions import LASTS_S, Sessions

NEEDED: Permission = "read_status"


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def directory(database: Database) -> Iterator[Directory]:
    yield Directory(database)


def key(database: Database, directory: Directory, role: str = "operator") -> str:
    made, _ = create_key(database, name="n", roles=[role], tasks=["*"], known_tasks=[], actor="test")
    directory.look()
    return made


def test_a_session_ends_with_its_key(database: Database, directory: Directory) -> None:
    sessions = Sessions(directory, b"s", NEEDED)
    secret = key(database, directory)
    cookie = sessions.begin(secret)
    session = sessions.of(cookie)
    assert session is not None and secret not in cookie and secret not in repr(session)
    assert sessions.caller(session).may("change_routes")
    revoke_key(database, secret.split("_")[1], "test", "lost")
    directory.look()
    with pytest.raises(Refused):
        sessions.caller(session)
    assert sessions.of(cookie) is None


def test_a_session_ends_by_itself_and_by_hand(database: Database, directory: Directory) -> None:
    clock = Clock()
    sessions = Sessions(directory, b"s", NEEDED, clock)
    secret = key(database, directory)
    first, second = sessions.begin(secret), sessions.begin(secret)
    held = sessions.of(second)
    assert held is not None
    sessions.end(held)
    assert sessions.of(second) is None and sessions.of(first) is not None
    clock.now += LASTS_S
    assert sessions.of(first) is None
    with pytest.raises(Refused, match="signed out"):
        sessions.caller(held)


def test_whoever_may_not_look_is_not_let_in(database: Database, directory: Directory) -> None:
    with pytest.raises(Refused) as refused:
        Sessions(directory, b"s", NEEDED).begin(key(database, directory, "caller"))
    assert refused.value.status == 403


def test_old_sessions_make_room(database: Database, directory: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 2)
    sessions = Sessions(directory, b"s", NEEDED)
    secret = key(database, directory)
    cookies = [sessions.begin(secret) for _ in range(3)]
    assert [sessions.of(cookie) is not None for cookie in cookies] == [False, True, True]


@given(st.text())
def test_no_made_up_cookie_opens_anything(cookie: str) -> None:
    assert Sessions(Directory.__new__(Directory), b"s", NEEDED).of(cookie) is None


def test_wrong_keys_make_an_address_wait() -> None:
    clock = Clock()
    guesses = Guesses(clock)
    for _ in range(MOST):
        assert guesses.wait_s("a") == 0
        guesses.wrong("a")
        clock.now += 1
    assert guesses.wait_s("a") == WINDOW_S - MOST
    assert guesses.wait_s("b") == 0, "others need not wait"
    clock.now += WINDOW_S - MOST
    assert guesses.wait_s("a") == 0
    guesses.wrong("a")
    assert guesses.wait_s("a") > 0, "one more try, not five"
