"""The operator's page in a browser: the real application under uvicorn, driven as a person does."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import requests
from answering_engine import AnsweringEngine
from gateway_server import Running, running_gateway

from finetune_platform import audit
from finetune_platform.errors import Unreachable
from finetune_platform.serving import rollouts, routes
from finetune_platform.serving.keys import revoke_key
from finetune_platform.serving.plan import Plan
from finetune_platform.serving.routes import edited
from finetune_platform.serving.site import guesses, signing_in
from finetune_platform.serving.traffic import ArmKey
from finetune_platform.settings import Settings
from finetune_platform.task_file import load_task

pytestmark = pytest.mark.browser

TASK = "ticket_topics"
CHAMPION, CANARY = "ad-c4a3b10201a1", "ad-ca2a57b0c2d2"
SCRIPT = '<script>window.hurt = 1</script><img src=x onerror="window.hurt = 2">`${window.hurt = 3}`'


@pytest.fixture
def served(settings_env: Settings, task_file: Any) -> Iterator[Running]:
    """A gateway with a champion."""
    task = load_task(task_file())
    with running_gateway(settings_env, [task], {TASK: AnsweringEngine()}) as running:
        change(running, champion=CHAMPION)
        yield running


@pytest.fixture
def rolling_out(served: Running) -> Running:
    """With a canary at 5% that has answered."""
    gateway = served.gateway
    task = gateway.tasks[TASK].task
    rollouts.start(gateway.database, task, CANARY, actor="test", reason=f"try it {SCRIPT}")
    for arm, adapter, n in (("champion", CHAMPION, 40), ("canary", CANARY, 3)):
        for _ in range(n):
            gateway.traffic.answered(
                ArmKey(TASK, adapter, arm),
                latency_ms=300,
                format_valid=None,
                refused=False,
                prompt_tokens=1,
                completion_tokens=1,
            )
    gateway.traffic.tell()
    gateway.watch.look()
    return served


def change(running: Running, **changes: Any) -> None:
    running.gateway.watch.apply(TASK, lambda plan: edited(plan, **changes), "test", "route.test", "for the test")


def plan_of(running: Running) -> Plan:
    with running.gateway.database.reading() as session:
        return routes.current(session, TASK).plan


@contextmanager
def opened(browser: Any, running: Running, key: str, **how: Any) -> Iterator[Any]:
    """The page, signed in; at the end nobody may have complained."""
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **how})
    page = context.new_page()
    page.set_default_timeout(10_000)
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: complaints.append(dialog.message))
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("request", lambda sent: complaints.append(sent.url) if not sent.url.startswith(running.url) else None)
    sign_in(page, running, key)
    page.wait_for_selector(".sentence")
    yield page
    assert page.evaluate("window.hurt") is None
    assert [c for c in complaints if not c.startswith("data:")] == []
    context.close()


def sign_in(page: Any, running: Running, key: str) -> None:
    page.goto(f"{running.url}/operator")
    page.fill("#credential", key)
    with page.expect_navigation():
        page.keyboard.press("Enter")


def press(page: Any, action: str, reason: str) -> None:
    page.click(f"[data-action={action}]")
    page.fill(".dialog textarea", reason)
    page.click(".dialog .buttons button >> nth=1")
    page.wait_for_selector(".dialog", state="hidden")


def eventually(page: Any, found: Callable[[], bool]) -> None:
    for _ in range(100):
        if found():
            return
        page.wait_for_timeout(100)
    raise AssertionError(page.inner_text("body"))


def test_a_person_steps_rolls_back_and_kills(browser: Any, rolling_out: Running) -> None:
    key = rolling_out.key("operator")
    with opened(browser, rolling_out, key) as page:
        sentence = f"{CHAMPION} answers 95%, the canary {CANARY} 5%; running, no evidence yet"
        assert sentence in page.inner_text(".sentence")
        assert "canary 5%" in page.inner_text(".shares")
        assert page.locator(".rail").count() == 5
        assert page.is_disabled("[data-action=revive]") and not page.is_visible("[data-action=revive]")

        page.click("[data-action=step]")
        assert f"{CANARY} answers 25% of the sessions instead of 5%" in page.inner_text(".dialog")
        assert page.is_disabled(".dialog .buttons button >> nth=1"), "a reason is required"
        page.keyboard.press("Escape")
        page.wait_for_selector(".dialog", state="hidden")
        assert plan_of(rolling_out).canary_share == 0.05

        press(page, "step", f"looks good {SCRIPT}")
        assert plan_of(rolling_out).canary_share == 0.25
        page.wait_for_selector(".sentence:has-text('the canary ad-ca2a57b0c2d2 25%')")
        assert f"by hand: looks good {SCRIPT}" in page.inner_text(".history"), "it is shown as it was written"

        press(page, "hold", "wait for the morning")
        page.wait_for_selector(".sentence:has-text('held')")
        press(page, "resume", "it is morning")
        page.wait_for_selector(".sentence:has-text('running')")

        press(page, "rollback", "answers in the wrong language")
        assert (plan_of(rolling_out).canary, plan_of(rolling_out).withdrawn) == (None, [CANARY])
        page.wait_for_selector(".sentence:has-text('was rolled back')")
        assert page.is_disabled("[data-action=step]")

        press(page, "kill", "all of them are wrong")
        assert plan_of(rolling_out).killed == "all of them are wrong"
        page.wait_for_selector(".sentence:has-text('the base model answers everything')")
        press(page, "revive", "mended")
        page.wait_for_selector(f".sentence:has-text('{CHAMPION} answers everything')")
        assert key not in page.content() and key not in page.url
    entries = list(audit.entries(rolling_out.gateway.database, TASK))
    by_hand = [(e.action, e.reason) for e in entries if e.actor == f"key:{key.split('_')[1]}"]
    assert ("route.kill", "all of them are wrong") in by_hand
    assert any(a == "rollout.rollback" and "answers in the wrong language" in r for a, r in by_hand)


def test_what_somebody_else_changed_meanwhile_is_not_changed_on_top(browser: Any, rolling_out: Running) -> None:
    gateway = rolling_out.gateway
    with opened(browser, rolling_out, rolling_out.key("operator")) as page:
        page.click("[data-action=step]")
        page.fill(".dialog textarea", "one step")
        rollouts.by_hand(gateway.database, gateway.tasks[TASK].task, "step", actor="other", reason="I was first")
        gateway.watch.look()
        page.click(".dialog .buttons button >> nth=1")
        page.wait_for_selector(".dialog .problem:has-text('nothing was done')")
        assert plan_of(rolling_out).canary_share == 0.25


def test_it_fits_a_phone_and_works_by_keyboard(browser: Any, rolling_out: Running) -> None:
    phone = {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark", "timezone_id": "Asia/Tokyo"}
    with opened(browser, rolling_out, rolling_out.key("operator"), **phone) as page:
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert max(int(part) for part in background[4:-1].split(",")) < 60, "dark, as the system wants it"
        time = page.locator(".history time").first
        assert time.get_attribute("title").endswith(" UTC")
        shown = page.evaluate("new Date(document.querySelector('.history time').dateTime).getHours() % 12")
        assert int(time.inner_text().split(":")[0][-2:]) % 12 == shown

        page.focus("[data-action=kill]")
        page.keyboard.press("Enter")
        page.wait_for_selector(".dialog")
        page.wait_for_function("document.activeElement.tagName === 'TEXTAREA'")
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        page.keyboard.type("by keyboard alone")
        page.wait_for_selector(".dialog .buttons button:not([disabled]) >> nth=1")
        page.keyboard.press("Tab")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        eventually(page, lambda: plan_of(rolling_out).killed == "by keyboard alone")


def test_an_auditor_sees_all_and_changes_nothing(browser: Any, served: Running) -> None:
    with opened(browser, served, served.key("auditor")) as page:
        assert "finetune rollout start ticket_topics" in page.inner_text(".two"), "nothing to show: what to do"
        assert "may look but not change" in page.inner_text(".banner")
        for action in ("step", "hold", "abort", "rollback", "demote", "kill"):
            assert page.is_disabled(f"[data-action={action}]"), action


def test_a_revoked_key_loses_the_page(browser: Any, served: Running) -> None:
    key = served.key("operator")
    with opened(browser, served, key) as page:
        revoke_key(served.gateway.database, key.split("_")[1], "test", "lost")
        page.wait_for_url("**/operator/login?ended=1", timeout=4000)
        assert "You were signed out" in page.inner_text("[role=alert]")
        page.goto(f"{served.url}/operator/")
        assert page.url.endswith("/operator/login")


def test_without_the_database_the_last_figures_stay_and_a_kill_works(
    browser: Any, rolling_out: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = rolling_out.gateway.database

    def away(*_: Any) -> Any:
        raise Unreachable("the database does not answer", "start it")

    with opened(browser, rolling_out, rolling_out.key("operator")) as page:
        monkeypatch.setattr(database, "session", away)
        monkeypatch.setattr(database, "reading", away)
        page.wait_for_selector(".banner[role=alert]")
        assert "The database has not answered since" in page.inner_text(".banner")
        assert page.locator(".rail").count() == 5 and CHAMPION in page.inner_text(".history")
        assert "rests until the database answers again" in page.inner_text(".sentence")
        assert page.is_disabled("[data-action=rollback]")
        press(page, "kill", "cannot see anything")
        assert rolling_out.gateway.watch.plan(TASK).killed == "cannot see anything"
        page.wait_for_selector(".q-notification:has-text('Killed at this gateway')")
        monkeypatch.undo()
        eventually(page, lambda: plan_of(rolling_out).killed == "cannot see anything")
        page.wait_for_selector(".banner", state="detached")


def test_wrong_keys_are_told_and_slowed_down(browser: Any, served: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signing_in, "WRONG_S", 0.05)
    page = browser.new_page()
    sign_in(page, served, "ftk_00000000_" + "x" * 43)
    assert "not valid" in page.inner_text("[role=alert]")
    sign_in(page, served, served.key("caller"))
    assert "needs the role operator" in page.inner_text("[role=alert]")
    for _ in range(guesses.MOST - 1):
        sign_in(page, served, "nonsense")
    right = served.key("operator")
    sign_in(page, served, right)
    assert "Too many wrong keys" in page.inner_text("[role=alert]")
    assert right not in page.url
    page.close()


def test_the_cookie_holds_no_key_and_opens_nothing_when_forged(served: Running) -> None:
    key = served.key("operator")
    with requests.Session() as http:
        answer = http.post(f"{served.url}/operator/login", {"credential": key}, allow_redirects=False, timeout=10)
        cookie = answer.headers["set-cookie"]
        assert answer.status_code == 303 and key not in cookie
        assert all(word in cookie for word in ("HttpOnly", "SameSite=lax", "Path=/operator"))
        assert http.get(f"{served.url}/operator/", timeout=10).headers["x-frame-options"] == "DENY"
        value = http.cookies["finetune_operator"]
        http.post(f"{served.url}/operator/logout", timeout=10)
    for tried in (value, "x.y", value[:-1] + "0", ""):
        again = requests.get(
            f"{served.url}/operator/", cookies={"finetune_operator": tried}, allow_redirects=False, timeout=10
        )
        assert (again.status_code, again.headers["location"]) == (303, "/operator/login")


def test_strangers_reach_neither_the_framework_nor_its_web_socket(served: Running) -> None:
    url = f"{served.url}/operator"
    assert requests.get(f"{url}/_nicegui_ws/socket.io/?EIO=4&transport=polling", timeout=10).status_code == 401
    assert requests.get(f"{url}/anything", timeout=10).status_code == 401
    headers = {"sec-fetch-site": "cross-site"}
    body = {"credential": served.key("operator")}
    assert requests.post(f"{url}/login", body, headers=headers, timeout=10).status_code == 403
    assert requests.post(f"{url}/login", {"credential": "x" * 20_000}, timeout=10).status_code == 400


def test_the_api_below_it_answers_for_itself(served: Running) -> None:
    url = f"{served.url}/operator/v1/tasks"
    assert requests.get(url, timeout=10).status_code == 401
    assert requests.put(url, timeout=10).status_code == 405
    missing = requests.get(f"{served.url}/operator/v1/nothing", timeout=10)
    assert missing.status_code == 404 and "error" in missing.json()
    assert not any("login" in path for path in requests.get(f"{served.url}/openapi.json", timeout=10).json()["paths"])
