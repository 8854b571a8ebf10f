"""The loop's pages: the real application under uvicorn, with a browser and without one."""

from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import pytest
import requests
from answering_engine import AnsweringEngine
from gateway_server import Running, running_gateway
from past_events import an_alarm, an_evaluation
from review_batches import TASK, a_batch, item

from finetune_platform.lake import Lake
from finetune_platform.loop import cycle, loop_site
from finetune_platform.serving.keys import revoke_key
from finetune_platform.settings import Settings, settings
from finetune_platform.task_file import load_task

SCRIPT = '<script>window.hurt = 1</script><img src=x onerror="window.hurt = 2">'
DAGSTER = "https://dagster.example"
OTHER = "another_task"
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True, "color_scheme": "dark"}


class Site:
    """A gateway with two tasks, one of which has an alarm and an evaluation."""

    def __init__(self, running: Running, lake: Lake) -> None:
        self.running, self.lake, self.database = running, lake, running.gateway.database

    def session(self, key: str, path: str = "/") -> tuple[requests.Session, requests.Response]:
        """Signed in with a key on the way to a page."""
        session = requests.Session()
        asked = session.get(f"{self.running.url}/loop{path}")
        assert asked.url.startswith(f"{self.running.url}/loop/login")
        return session, session.post(asked.url, data={"credential": key})


@pytest.fixture
def site(settings_env: Settings, task_file: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("DAGSTER_URL", DAGSTER)
    monkeypatch.setattr(cycle, "FRESH_S", 0.0)
    settings.cache_clear()
    tasks = [load_task(task_file(name=name)) for name in (TASK, OTHER)]
    engines = {task.name: AnsweringEngine() for task in tasks}
    place = settings()
    with running_gateway(place, tasks, engines, lambda gateway: loop_site.loop_site(gateway, place)) as running:
        lake = Lake(place.lake_url)
        an_alarm(lake, running.gateway.database, TASK, f"drift since noon {SCRIPT}")
        an_evaluation(lake, running.gateway.database, TASK, cost_per_1000=None)
        yield Site(running, lake)


class Reader(HTMLParser):
    """What a page links to, and what it would fetch by itself."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.links, self.fetched = list[str](), list[str]()
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        if tag == "a":
            self.links.append(named.get("href") or "")
        if tag != "a" and (address := named.get("src") or named.get("href")):
            self.fetched.append(address)


def test_who_may_see_which_task(site: Site) -> None:
    url, key = f"{site.running.url}/loop", site.running.key("operator", tasks=[TASK])
    session, found = site.session(key, f"/{TASK}")
    assert found.status_code == 200 and found.url == f"{url}/{TASK}", "signing in leads to where one wanted to go"
    assert session.get(url).url == f"{url}/" and OTHER not in session.get(url).text
    foreign, unknown = session.get(f"{url}/{OTHER}"), session.get(f"{url}/no_task")
    assert (foreign.status_code, unknown.status_code) == (404, 404)
    told = [answer.text.partition("<section")[2] for answer in (foreign, unknown)]
    assert told[0].replace(OTHER, "no_task") == told[1], "a task that a key is not for does not exist for it"
    assert session.get(f"{url}/{TASK}/deeper").status_code == 404
    auditor, both = site.session(site.running.key("auditor"))
    assert OTHER in both.text and auditor.get(f"{url}/{OTHER}").status_code == 200
    for role in ("caller", "reviewer", "lead"):
        assert site.session(site.running.key(role))[1].status_code == 403
    assert requests.get(f"{url}/{TASK}/deeper", timeout=10).status_code == 401
    revoke_key(site.database, key.split("_")[1], "test", "lost")
    site.running.gateway.directory.look()
    assert "You were signed out" in session.get(f"{url}/{TASK}").text


def test_a_page_needs_nothing_from_elsewhere_and_leads_on(site: Site) -> None:
    session, found = site.session(site.running.key("operator"), f"/{TASK}")
    page = Reader(found.text)
    assert SCRIPT not in found.text and not [a for a in page.fetched if not a.startswith("data:")]
    named = f"?task={TASK}"
    assert {f"/operator/{named}", f"/review/rows{named}", f"{DAGSTER}/assets/{TASK}/drift_report"} <= set(page.links)
    assert site.lake.url_of(f"{TASK}/drift_reports/dr-1/report.html") in found.text
    assert found.headers["content-security-policy"] and found.headers["cache-control"] == "no-store"
    site.lake.delete(f"{TASK}/evaluations/ev-1/report.json")
    broken = session.get(found.url)
    assert broken.status_code == 503 and "finetune run" in broken.text


@pytest.mark.browser
def test_a_cycle_is_seen_followed_and_read_by_keyboard(
    browser: Any, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop_site, "REFRESH_S", 0.3)
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.set_default_timeout(10_000)
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.goto(f"{site.running.url}/loop/{TASK}")
    page.fill("#credential", site.running.key("operator"))
    with page.expect_navigation():
        page.keyboard.press("Enter")
    assert page.inner_text("#stands").split()[:5] == ["The", "cycle", "is", "at", "drift"]
    assert page.locator(".ring .here").get_attribute("data-station") == "drift"
    assert page.locator(".flow [aria-current=step]").get_attribute("data-station") == "drift"
    image = page.get_by_role("img", name=f"The cycle of {TASK} is at drift: alarm")
    assert image.is_visible() and "experts: idle" in page.inner_html(".ring desc")
    row = page.inner_text("[data-side=adapter]").split()
    assert row[-6:] == ["0.900", "0.800", "to", "0.950", "–", "60"]
    page.focus("body")
    reached = set()
    for _ in range(30):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.getAttribute('href') || document.activeElement.textContent"))
    assert {"#cycle", "/loop/", "Log out", f"/operator/?task={TASK}", f"/review/figures?task={TASK}"} <= reached
    page.evaluate("document.querySelector('main').mark = 1")
    page.wait_for_timeout(700)
    assert page.evaluate("document.querySelector('main').mark") == 1, "what has not changed is not drawn anew"
    a_batch(site.database, [item()])
    page.wait_for_selector(".ring .here[data-station=experts]")
    assert "people: 1 rows" in page.inner_text(".stands")
    assert complaints == [] and page.evaluate("window.hurt") is None
    context.close()


@pytest.mark.browser
def test_it_fits_a_phone_and_works_without_scripts(browser: Any, site: Site) -> None:
    context = browser.new_context(**PHONE, java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{site.running.url}/loop/{TASK}")
    page.fill("#credential", site.running.key("operator"))
    with page.expect_navigation():
        page.keyboard.press("Enter")
    assert page.locator("noscript meta[http-equiv=refresh]").count() == 1
    for path in (f"/{TASK}", "/"):
        page.goto(f"{site.running.url}/loop{path}")
        wide = page.evaluate("[document.documentElement.scrollWidth, getComputedStyle(document.body).backgroundColor]")
        assert wide[0] == 390
        assert max(int(part) for part in wide[1][4:-1].split(",")) < 60, "dark, as the system wants it"
    badges = page.locator(".task .badge").all_inner_texts()
    assert badges == ["· champion: idle", "! drift: alarm"], "a mark and a word, not colour alone"
    context.close()
