"""The review pages in browsers: the real application under uvicorn, driven by several people at once."""

import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import krippendorff
import pytest
import requests
from answering_engine import AnsweringEngine
from gateway_server import Running, running_gateway
from review_batches import BATCH, TASK, a_batch, item

from finetune_platform.errors import Unreachable
from finetune_platform.labeling.answering import Annotation, annotate
from finetune_platform.labeling.batches import Reviewed, close_batch, read_batch
from finetune_platform.labeling.items import Item
from finetune_platform.review import rows_page
from finetune_platform.review.review_site import review_site
from finetune_platform.serving.keys import revoke_key
from finetune_platform.settings import Settings
from finetune_platform.task_file import load_task

pytestmark = pytest.mark.browser

SCRIPT = '<script>window.hurt = 1</script><img src=x onerror="window.hurt = 2">`${window.hurt = 3}`'
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True, "color_scheme": "dark"}

Serve = Callable[..., Running]


@pytest.fixture
def serve(settings_env: Settings, task_file: Any) -> Iterator[Serve]:
    """Starts a gateway with one task whose batch holds these rows."""
    with _stack() as enter:

        def start(items: Sequence[Item], **labeling: Any) -> Running:
            task = load_task(task_file(name=TASK, labeling=labeling))
            running = enter(running_gateway(settings_env, [task], {TASK: AnsweringEngine()}, review_site))
            a_batch(running.gateway.database, items)
            return running

        yield start


@contextmanager
def _stack() -> Iterator[Callable[[Any], Any]]:
    from contextlib import ExitStack

    with ExitStack() as stack:
        yield stack.enter_context


@contextmanager
def opened(browser: Any, running: Running, key: str, path: str = "", **how: Any) -> Iterator[Any]:
    """A page of the review site, signed in; at the end nobody may have complained."""
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **how})
    page = context.new_page()
    page.set_default_timeout(10_000)
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: complaints.append(dialog.message))
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("request", lambda sent: complaints.append(sent.url) if not sent.url.startswith(running.url) else None)
    sign_in(page, running, key, path)
    page.wait_for_function("window.did_handshake")
    yield page
    assert page.evaluate("window.hurt") is None
    assert [c for c in complaints if not c.startswith("data:")] == []
    context.close()


def sign_in(page: Any, running: Running, key: str, path: str = "") -> None:
    page.goto(f"{running.url}/review{path}")
    page.fill("#credential", key)
    with page.expect_navigation():
        page.keyboard.press("Enter")


def at_row(page: Any, number: int) -> None:
    page.wait_for_selector(f"#desk[data-number='{number}']")


def row(running: Running, number: int = 1) -> Reviewed:
    return read_batch(running.gateway.database, BATCH).rows[number - 1]


def eventually(page: Any, found: Callable[[], bool]) -> None:
    for _ in range(100):
        if found():
            return
        page.wait_for_timeout(100)
    raise AssertionError(page.inner_text("body"))


def actor(key: str) -> str:
    return f"key:{key.split('_')[1]}"


def test_two_people_disagree_and_a_third_decides(browser: Any, serve: Serve) -> None:
    """The overlap: neither sees the other's answer, the lead sees both and no names, and alpha is the package's."""
    served = serve([item(f"question {i} {SCRIPT}", f"answer {i} {SCRIPT}", wanted=2) for i in range(4)])
    ann, bob, cy = served.key("reviewer"), served.key("reviewer"), served.key("lead")
    with opened(browser, served, ann) as first, opened(browser, served, bob) as second:
        for number in range(1, 5):
            for page, ending in ((first, ""), (second, " but different" if number in (2, 4) else "")):
                at_row(page, number)
                assert page.input_value("#answer") == f"answer {number - 1} {SCRIPT}", "correcting is typing"
                assert "different" not in page.content()
                if ending:
                    page.keyboard.type(ending)
                    assert page.inner_text("#suggestion ins") == ending
                page.keyboard.press("Control+Enter")
        for page in (first, second):
            page.wait_for_selector("text=Nothing waits for you")
        assert "2 of 4 rows done, 2 to decide" in second.inner_text(".progress")
    said = [{said.reviewer: said.answer for said in row(served, n).said} for n in range(1, 5)]
    names = {answer: float(code) for code, answer in enumerate(sorted({a for one in said for a in one.values() if a}))}
    data = [[names[str(one[actor(who)])] for one in said] for who in (ann, bob)]
    expected = krippendorff.alpha(reliability_data=data, level_of_measurement="nominal")

    with opened(browser, served, cy, f"/figures?task={TASK}") as page:
        assert page.url.endswith(f"/review/figures?task={TASK}"), "signing in leads to where one wanted to go"
        page.wait_for_selector(".alpha")
        assert float(page.get_attribute(".alpha", "data-alpha")) == pytest.approx(expected)
        assert "2 of 4 rows are neither answered nor decided" in page.inner_text(".figures")

        page.click("text=Decisions")
        at_row(page, 2)
        page.wait_for_function("window.did_handshake")
        assert page.locator(".side").count() == 2
        assert ann.split("_")[1] not in page.content() and bob.split("_")[1] not in page.content()
        letter = "A" if "different" in page.inner_text(".side[data-letter=A]") else "B"
        changed = page.inner_text(".side ins, .side[data-letter=A] del")
        assert changed.strip() == "but different", "of two texts their difference is marked"
        page.keyboard.press(f"Alt+{letter}")
        assert page.input_value("#answer") == f"answer 1 {SCRIPT} but different"
        page.click("text=Show names")
        page.wait_for_selector(f".side:has-text('{ann.split('_')[1]}')")
        assert page.input_value("#answer").endswith("but different"), "what was chosen is still there"
        page.keyboard.press("Control+Enter")
        at_row(page, 4)
        page.keyboard.press("Alt+x")
        page.keyboard.type("both are wrong")
        page.keyboard.press("Control+Enter")
        page.wait_for_selector("text=Nothing to decide")
        assert row(served, 2).outcome[:3] == ("settled", f"answer 1 {SCRIPT} but different", "adjudication")
        assert row(served, 4).outcome.state == "excluded" and row(served, 4).outcome.why == "both are wrong"
        page.click("text=Agreement")
        page.wait_for_selector(".badge:has-text('people agree too little')")


def test_the_keyboard_alone_suffices(browser: Any, serve: Serve) -> None:
    served = serve([item(f"question {i}", "card") for i in range(6)], labels=["card", "transfer", "login"])
    key = served.key("reviewer")
    with opened(browser, served, key) as page:
        at_row(page, 1)
        assert page.is_checked("input[value=card]"), "the model's label is chosen already"
        page.keyboard.press("2")
        page.keyboard.press("Alt+r")
        page.keyboard.press("4")
        page.keyboard.press("Control+Enter")
        at_row(page, 2)
        page.keyboard.press("Enter")
        at_row(page, 3)
        page.keyboard.press("Alt+s")
        page.wait_for_selector("#why[open]")
        page.keyboard.press("Control+Enter")
        assert page.is_visible("#why"), "a reason is required"
        page.keyboard.type("not my field")
        page.keyboard.press("Control+Enter")
        at_row(page, 4)
        page.keyboard.press("Alt+f")
        page.keyboard.type("empty row")
        page.keyboard.press("Control+Enter")
        at_row(page, 5)
        page.keyboard.press("?")
        page.wait_for_selector("#keys[open]")
        page.keyboard.press("Escape")
        page.wait_for_selector("#keys", state="hidden")

        page.keyboard.press("Alt+ArrowUp")
        at_row(page, 4)
        page.keyboard.press("Alt+ArrowUp")
        page.keyboard.press("Alt+ArrowUp")
        page.keyboard.press("Alt+ArrowUp")
        at_row(page, 1)
        assert page.is_checked("input[value=transfer]") and page.is_checked("input[name=rating][value='4']")
        page.keyboard.press("3")
        page.keyboard.press("Control+Enter")
        at_row(page, 5)
        page.keyboard.press("Tab")
        focused = page.evaluate(
            "getComputedStyle(document.activeElement.closest('.choice') || document.activeElement).outlineStyle"
        )
        assert focused == "solid", "what has the focus is seen"
    said = [row(served, number).said[0] for number in range(1, 5)]
    assert [(s.decision, s.answer, s.reason) for s in said] == [
        ("answer", "login", ""),
        ("answer", "card", ""),
        ("skip", None, "not my field"),
        ("flag", None, "empty row"),
    ]
    assert said[0].rating == 4 and statistics.median(s.seconds for s in said) < 60


def test_many_labels_are_found_by_typing(browser: Any, serve: Serve) -> None:
    labels = [f"{verb} {thing}" for verb in ("open", "close", "lose") for thing in ("account", "card", "loan", "pin")]
    served = serve([item("q1", None), item("q2", None)], labels=labels)
    with opened(browser, served, served.key("reviewer")) as page:
        at_row(page, 1)
        page.keyboard.press("Control+Enter")
        assert "Choose a label" in page.inner_text(".alert")
        page.keyboard.type("card")
        assert page.locator(".choice:visible").count() == 3
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Enter")
        page.keyboard.press("Enter")
        at_row(page, 2)
    assert row(served).outcome.answer == "close card"


def test_it_fits_a_phone(browser: Any, serve: Serve) -> None:
    question = "an_extraordinarily_long_word_" * 12
    served = serve([item(question, "greeting"), item("q2")], guidelines=f"# Be kind\n\n{SCRIPT} `{question}`")
    with opened(browser, served, served.key("lead"), **PHONE) as page:
        at_row(page, 1)
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert max(int(part) for part in background[4:-1].split(",")) < 60, "dark, as the system wants it"
        assert not page.is_visible(".markdown"), "the guidelines are folded"
        page.tap(".guidelines summary")
        assert SCRIPT.partition("`")[0] in page.inner_text(".markdown")
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        assert page.evaluate("document.activeElement.tagName") != "TEXTAREA", "its keyboard does not cover the row"
        save = page.locator("#desk button[type=submit]").bounding_box()
        assert save["y"] + save["height"] <= 844 and save["height"] >= 44, "under the thumb without scrolling"
        page.fill("#answer", "typed on a phone")
        page.tap("#desk button[type=submit]")
        at_row(page, 2)
        page.tap("text=Flag")
        page.fill("#reason", "off the task")
        page.tap("#why .main")
        page.wait_for_selector("text=Nothing waits for you")
        for place in ("Decisions", "Agreement"):
            with page.expect_navigation():
                page.tap(f"text={place}")
            page.wait_for_selector(".card")
            assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert row(served).outcome.answer == "typed on a phone"


def test_a_reload_keeps_the_draft(browser: Any, serve: Serve) -> None:
    served = serve([item("q1", "the model's"), item("q2")])
    key = served.key("reviewer")
    with opened(browser, served, key) as page:
        at_row(page, 1)
        page.keyboard.type(" answer, corrected")
        page.wait_for_selector(".status:has-text('Draft kept')")
        page.keyboard.type(" and more")
        # Before the second draft is kept: it waits in the tab.
        page.reload()
        at_row(page, 1)
        assert page.input_value("#answer") == "the model's answer, corrected and more"
        assert "is back" in page.inner_text(".status")
        page.wait_for_selector(".status:has-text('Draft kept')")
    with opened(browser, served, key) as elsewhere:
        at_row(elsewhere, 1)
        assert elsewhere.input_value("#answer") == "the model's answer, corrected and more"


def test_without_a_connection_nothing_is_lost_and_the_page_says_so(browser: Any, serve: Serve) -> None:
    served = serve([item("q1", ""), item("q2")])
    with opened(browser, served, served.key("reviewer")) as page:
        at_row(page, 1)
        page.evaluate("window.socket.disconnect()")
        page.keyboard.type("typed in a tunnel")
        page.keyboard.press("Control+Enter")
        page.wait_for_selector(".alert:has-text('Not saved yet')")
        assert page.input_value("#answer") == "typed in a tunnel" and row(served).said == ()
        page.evaluate("window.socket.connect()")
        at_row(page, 2)
        assert row(served).outcome.answer == "typed in a tunnel"


def test_what_was_decided_or_closed_meanwhile_is_said_and_the_text_stays(browser: Any, serve: Serve) -> None:
    served = serve([item("q1", "a"), item("q2", "a")])
    key, database = served.key("reviewer"), served.gateway.database
    with opened(browser, served, key) as page:
        at_row(page, 1)
        page.keyboard.type("bc")
        annotate(database, BATCH, 1, actor(key), Annotation("answer", "in another tab"))
        page.keyboard.press("Control+Enter")
        page.wait_for_selector(".alert:has-text('in another tab')")
        assert page.input_value("#answer") == "abc"
        page.keyboard.press("Control+Enter")
        at_row(page, 2)
        assert row(served).outcome.answer == "abc"
        page.keyboard.type("de")
        annotate(database, BATCH, 2, "bob", Annotation("answer", "a"))
        close_batch(database, BATCH)
        page.keyboard.press("Control+Enter")
        page.wait_for_selector(".alert:has-text('this batch is closed')")
        assert page.input_value("#answer") == "ade"


def test_who_waits_gets_a_row_that_comes_free(browser: Any, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_page, "PROGRESS_S", 0.5)
    served = serve([item()])
    database = served.gateway.database
    with opened(browser, served, served.key("reviewer")) as page:
        at_row(page, 1)
        page.keyboard.press("Control+Enter")
        page.wait_for_selector("text=Nothing waits for you")
        a_batch(database, [item("a new question")], cause="alarm 2", batch_id="rb-000000000002")
        page.wait_for_selector("text=a new question")


def test_a_revoked_key_loses_the_page_and_keeps_the_text(browser: Any, serve: Serve) -> None:
    served = serve([item("q1", "")])
    key = served.key("reviewer")
    with opened(browser, served, key) as page:
        at_row(page, 1)
        page.keyboard.type("half a")
        revoke_key(served.gateway.database, key.split("_")[1], "test", "lost")
        page.wait_for_url("**/review/login?ended=1", timeout=4000)
        assert "You were signed out" in page.inner_text("[role=alert]")
        page.goto(f"{served.url}/review/rows")
        assert "/review/login" in page.url


def test_doors_open_to_those_with_the_role(browser: Any, serve: Serve) -> None:
    served = serve([item()])
    page = browser.new_page()
    for role in ("operator", "auditor", "caller"):
        sign_in(page, served, served.key(role))
        assert "it needs the role reviewer" in page.inner_text("[role=alert]")
    page.close()
    with requests.Session() as http:
        url = f"{served.url}/review"
        http.post(f"{url}/login", {"credential": served.key("reviewer")}, timeout=10)
        cookie = http.cookies["finetune_review"]
        get = partial(http.get, allow_redirects=False, timeout=10)
        assert get(f"{url}/rows").status_code == 200
        assert get(f"{url}/decisions").headers["location"] == "/review/rows", "that is a lead's"
        assert get(f"{url}/figures").headers["location"] == "/review/rows"
        assert get(f"{url}/nothing").status_code == 404
        assert get(url, headers={"cookie": f"finetune_review={cookie}"}).headers["location"] == "/review/rows"
        there = get(f"{served.url}/operator/", headers={"cookie": f"finetune_operator={cookie}"})
        assert there.headers["location"] == "/operator/login", "one site's cookie opens no other"
    with requests.Session() as http:
        http.post(f"{served.url}/operator/login", {"credential": served.key("operator")}, timeout=10)
        assert http.get(f"{served.url}/operator/rows", timeout=10).status_code == 404, "no review page there"
        operators = http.cookies["finetune_operator"]
        there = http.get(url + "/rows", headers={"cookie": f"finetune_review={operators}"}, timeout=10)
        assert there.url.endswith("/review/login")


def test_without_the_database_the_page_says_so_and_saves_when_it_is_back(
    browser: Any, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = serve([item("q1", "a"), item("q2")])
    database = served.gateway.database

    def away(*_: Any) -> Any:
        raise Unreachable("the database does not answer", "start it")

    with opened(browser, served, served.key("reviewer")) as page:
        at_row(page, 1)
        cookies = {cookie["name"]: cookie["value"] for cookie in page.context.cookies()}
        monkeypatch.setattr(database, "session", away)
        monkeypatch.setattr(database, "reading", away)
        page.keyboard.type("b")
        page.keyboard.press("Control+Enter")
        page.wait_for_selector(".alert:has-text('Not saved: the database does not answer')")
        answer = requests.get(f"{served.url}/review/rows", cookies=cookies, timeout=10)
        assert answer.status_code == 503 and "the database does not answer" in answer.text
        monkeypatch.undo()
        at_row(page, 2)
    assert row(served).outcome.answer == "ab"


def test_a_key_for_one_task_sees_that_alone(browser: Any, settings_env: Settings, task_file: Any) -> None:
    tasks = [load_task(task_file(name=name)) for name in (TASK, "secret_task")]
    engines = {task.name: AnsweringEngine() for task in tasks}
    with running_gateway(settings_env, tasks, engines, review_site) as served:
        a_batch(served.gateway.database, [item("q1", wanted=2)])
        with opened(browser, served, served.key("reviewer", tasks=[TASK]), "/rows?task=secret_task") as page:
            at_row(page, 1)
            assert "secret_task" not in page.inner_text("body")
        with opened(browser, served, served.key("reviewer")) as page:
            assert "1 row" in page.inner_text(f".task:has-text('{TASK}')")
            assert "no batch is open" in page.inner_text(".task:has-text('secret_task')")
            page.click(f"text={TASK}")
            at_row(page, 1)


def test_the_difference_of_two_texts_rebuilds_both(browser: Any, serve: Serve) -> None:
    served = serve([item()])
    pairs = [
        ("", ""), ("a b c", "a b c"), ("a b c", ""), ("", "x"), ("the red fox ran", "the blue cat ran off"),
        ("one\n\ntwo  three", "one\ntwo three."), ("naïve Ünïcode 漢字 mix", "naive Ünicode 漢 mix"), ("a" * 50, "b"),
        (" ".join(map(str, range(3000))), " ".join(map(str, range(1, 3000, 2)))),
    ]  # fmt: skip
    with opened(browser, served, served.key("reviewer")) as page:
        for old, new in pairs:
            found = page.evaluate("([a, b]) => difference.between(a, b)", [old, new])
            assert "".join(text for kind, text in found if kind != "new") == old
            assert "".join(text for kind, text in found if kind != "gone") == new
        found = page.evaluate("difference.between('the red fox ran', 'the blue cat ran off')")
        assert found == [["same", "the "], ["gone", "red fox"], ["new", "blue cat"], ["same", " ran"], ["new", " off"]]
