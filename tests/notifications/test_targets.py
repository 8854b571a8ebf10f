"""NOTIFY_URLS read, and messages handed to real servers; no message ever tells a password."""

import re

import pytest
from receivers import MailServer, WebHook

from finetune_platform.errors import BadInput
from finetune_platform.notifications.targets import Target, chosen, deliver, problem_of, targets_of


@pytest.mark.parametrize(
    ("setting", "names"),
    [
        ("", []),
        ("  \n", []),
        ("json://h/x", ["json"]),
        ("ops=slack://a/b/c, mail=mailtos://u:p@h?to=a@b.example,c@d.example", ["ops", "mail"]),
        ("json://h/x json://h/y\nopsgenie://key", ["json", "json-2", "opsgenie"]),
    ],
)
def test_targets_have_names(setting: str, names: list[str]) -> None:
    assert [target.name for target in targets_of(setting)] == names


def test_an_address_with_commas_stays_whole() -> None:
    [target] = targets_of("mail=mailtos://u:p@h?to=a@b.example,c@d.example&cc=e@f.example")
    assert target.url == "mailtos://u:p@h?to=a@b.example,c@d.example&cc=e@f.example"


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("slack:/hunter2", "entry 1 is no address"),
        ("json://h/x, Ops!=json://u:hunter2@h", "entry 1 is no address|entry 2.*small letters|entry 1"),
        ("a=json://h/hunter2, a=json://h/x", "two entries are named a"),
    ],
)
def test_a_wrong_setting_is_told_without_its_secrets(setting: str, told: str) -> None:
    with pytest.raises(BadInput, match=told) as error:
        targets_of(setting)
    assert "hunter2" not in str(error.value)


def test_a_task_chooses_by_name_and_is_told_of_the_nearest() -> None:
    targets = targets_of("ops=json://h/x, mail=json://h/y")
    assert [t.name for t in chosen(targets, [], "t")] == ["ops", "mail"]
    assert [t.name for t in chosen(targets, ["mail"], "t")] == ["mail"]
    with pytest.raises(BadInput, match=r't: notifications\.to: NOTIFY_URLS has no target mial; did you mean "mail"'):
        chosen(targets, ["mial"], "t")


@pytest.mark.parametrize("url", ["nosuch://hunter2", "slack://hunter2", "jsn://u:hunter2@h"])
def test_what_apprise_does_not_understand_is_told_before_anything_is_sent(url: str) -> None:
    [target] = targets_of(url)
    problem = problem_of(target)
    assert problem == f"{target.schema}:// is not an address that Apprise understands"
    assert deliver(target, "t", "b", "info") == problem


def test_a_web_hook_and_a_mail_server_get_the_message_whole(hook: WebHook, mail: MailServer) -> None:
    for target in targets_of(f"{hook.url}, {mail.url}"):
        assert problem_of(target) == ""
        assert deliver(target, "topics: a run failed", "what & <why>\nnext: `finetune status`", "failure") == ""
    [posted] = hook.taken
    assert (posted["title"], posted["type"]) == ("topics: a run failed", "failure")
    assert posted["message"] == "what & <why>\nnext: `finetune status`"
    [letter] = mail.taken
    assert letter["Subject"] == "topics: a run failed"
    body = letter.get_payload(decode=True)
    assert isinstance(body, bytes) and body.decode().splitlines()[:2] == ["what & <why>", "next: `finetune status`"]


def test_a_server_that_refuses_is_told_without_the_key_in_its_address(
    hook: WebHook, capfd: pytest.CaptureFixture[str]
) -> None:
    hook.status = 500
    host = hook.url.removeprefix("json://")
    problem = deliver(Target("ops", "json", f"json://user:hunter2@{host}/secretkey"), "t", "b", "info")
    assert "500" in problem and not re.search("hunter2|secretkey", problem)
    hook.stop()
    assert "onnection" in deliver(Target("ops", "json", f"json://user:hunter2@{host}"), "t", "b", "info")
    # Nor does the library tell its own.
    assert capfd.readouterr() == ("", "")
