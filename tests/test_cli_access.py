"""`finetune key …` and `finetune audit …` as a person types them and as a script reads them."""

import json
import re
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from typer.testing import CliRunner

from finetune_platform.cli import app
from finetune_platform.commands.audit import one_line
from finetune_platform.commands.installation import open_database
from finetune_platform.serving.callers import Directory, Refused
from finetune_platform.settings import Settings

KEY = re.compile(r"^ftk_([0-9a-f]{8})_[\w-]{43}$", re.MULTILINE)
runner = CliRunner()


def call(*arguments: str, expect: int = 0) -> str:
    result = runner.invoke(app, list(arguments))
    assert result.exit_code == expect, result.output + repr(result.exception)
    return result.output


def call_json(*arguments: str, expect: int = 0) -> Any:
    result = runner.invoke(app, [*arguments, "--json"])
    assert result.exit_code == expect, result.output + repr(result.exception)
    return json.loads(result.stdout)


def tamper(place: Settings, statement: str) -> None:
    engine = create_engine(place.database_url)
    with engine.begin() as connection:
        connection.execute(text(statement))
    engine.dispose()


@pytest.fixture(autouse=True)
def installation(settings_env: Settings, task_file: Any) -> Settings:
    """An installation with one task, ticket_topics."""
    task_file()
    return settings_env


def is_good(key: str) -> bool:
    directory = Directory(open_database())
    directory.look()
    try:
        directory.authenticate(f"Bearer {key}")
    except Refused:
        return False
    return True


def test_a_key_is_shown_once_and_works() -> None:
    told = call("key", "create", "shop", "--task", "ticket_topics")
    found = KEY.search(told)
    assert found is not None and "shown this once" in told and "caller of ticket_topics" in told
    assert is_good(found.group(0))
    listed = call("key", "list")
    assert found.group(1) in listed and "active" in listed and found.group(0) not in listed
    assert found.group(0).split("_", 2)[2] not in call("audit") + call("audit", "--json")


def test_every_option_reaches_the_key() -> None:
    scope = ["--role", "operator", "--role", "auditor", "--task", "*", "--tenant", "acme", "--expires-days", "90"]
    made = call_json("key", "create", "ops", *scope, "--requests-per-minute", "60", "--tokens-per-minute", "9000")
    (listed,) = call_json("key", "list")["keys"]
    assert listed.pop("state") == "active" and made.pop("key").startswith(f"ftk_{made['key_id']}_")
    assert listed == made
    assert (listed["roles"], listed["tasks"], listed["tenant"]) == (["auditor", "operator"], ["*"], "acme")
    assert (listed["requests_per_minute"], listed["tokens_per_minute"]) == (60, 9000)
    assert listed["expires_at"] > listed["created_at"]
    shown = call("key", "list")
    assert "60 requests, 9,000 tokens" in shown and "acme" in shown and "until 20" in shown


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--task", "ticket_topic"], 'did you mean "ticket_topics"?'),
        (["--task", "*", "--role", "operater"], 'did you mean "operator"?'),
        (["--task", "*", "--expires-days", "0"], "--expires-days: 0"),
        (["--task", "*", "--expires-days", "nan"], "--expires-days: nan"),
        (["--task", "*", "--requests-per-minute", "0"], "requests_per_minute: 0"),
        ([], "--task"),
    ],
)
def test_a_key_that_cannot_be_is_refused_with_the_mend(arguments: list[str], told: str) -> None:
    assert told in call("key", "create", "shop", *arguments, expect=2)
    assert "no key yet" in call("key", "list")


def test_rotation_and_revocation() -> None:
    first = call_json("key", "create", "shop", "--task", "*")
    told = call("key", "rotate", first["key_id"])
    second = KEY.search(told)
    assert second is not None and f"{first['key_id']} is refused from now on" in told
    assert is_good(second.group(0)) and not is_good(first["key"])
    third = call_json("key", "rotate", second.group(1), "--overlap-hours", "24")
    assert is_good(second.group(0)) and is_good(third["key"])
    assert "within a second" in call("key", "revoke", third["key_id"], "--reason", "left the team")
    assert not is_good(third["key"])
    assert "it is revoked" in call("key", "rotate", third["key_id"], expect=2)
    assert "no such key id" in call("key", "revoke", "zzzzzzzz", "--reason", "x", expect=2)
    assert "--reason" in call("key", "revoke", second.group(1), expect=2)
    states = {key["key_id"]: key["state"] for key in call_json("key", "list")["keys"]}
    assert states == {first["key_id"]: "revoked", second.group(1): "active", third["key_id"]: "revoked"}


def test_the_audit_log_tells_who_did_what() -> None:
    assert "nothing was done yet" in call("audit")
    one, other = (call_json("key", "create", name, "--task", "*")["key_id"] for name in ("one", "other"))
    call("key", "revoke", one, "--reason", "leaked\nkey.create by nobody \x1b[2J")
    lines = call("audit").splitlines()
    assert len(lines) == 3, "no reason makes two lines of one"
    assert re.match(r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d cli:\w+  key\.create ", lines[0])
    assert lines[2].endswith(f"key.revoke {one}  leaked\\nkey.create by nobody \\x1b[2J")
    assert call("audit", other).count("\n") == 1 and "nothing was done to nobody yet" in call("audit", "nobody")
    assert call("audit", "show", one) == call("audit", one)
    told = [json.loads(line) for line in call("audit", one, "--json").splitlines()]
    assert [entry["action"] for entry in told] == ["key.create", "key.revoke"]
    assert told[0]["details"]["name"] == "one" and len(told[0]["digest"]) == 64
    assert call("audit", "--json").count("\n") == 3


def test_verify_says_that_the_log_is_whole_and_what_to_note(installation: Settings) -> None:
    call("key", "create", "shop", "--task", "*")
    told = call("audit", "verify")
    found = call_json("audit", "verify")
    assert found == {"ok": True, "entries": 1, "head": found["head"], "broken": []}
    assert f"head {found['head']}" in told and "1 entry" in told
    call("key", "create", "shop", "--task", "*")
    assert "2 entries" in call("audit", "verify", "--head", f" {found['head'].upper()} ")
    tamper(installation, "DELETE FROM audit_log")
    call("audit", "verify")
    assert found["head"] in call("audit", "verify", "--head", found["head"], expect=1)
    assert "is no digest" in call("audit", "verify", "--head", "abc", expect=2)


def test_verify_names_what_was_tampered_with(installation: Settings) -> None:
    for _ in range(3):
        call("key", "create", "shop", "--task", "*")
    tamper(installation, "UPDATE audit_log SET actor = 'cli:another' WHERE id = 2")
    told = call("audit", "verify", expect=1)
    assert "entry 2: its content is not what was written" in told and "backup" in told
    found = call_json("audit", "verify", expect=1)
    assert found["ok"] is False and [broken["entry"] for broken in found["broken"]] == [2]


def test_the_groups_have_help() -> None:
    assert "rotate" in call("key", "--help") and "verify" in call("audit", "--help")
    for words in (["key", "create"], ["key", "list"], ["key", "rotate"], ["key", "revoke"], ["audit", "verify"]):
        assert "Usage" in call(*words, "--help")
    for group in ("key", "audit"):
        assert group in call("--help")


def test_text_of_unknown_origin_stays_on_its_line() -> None:
    assert one_line("a\nb\r\x1b[31m\u202e\u2028é") == "a\\nb\\r\\x1b[31m\\u202e\\u2028é"
