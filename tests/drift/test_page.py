"""The page of a look: verdict first, self-contained, escaped, made from its data alone."""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from drift_world import BEGIN, found, home, kept, strange, vectors_of

from finetune_platform.drift.explanation import Since, explain
from finetune_platform.drift.page import moment, percent, points, render_page
from finetune_platform.drift.plots import evidence, evidence_plots
from finetune_platform.drift.quality_plots import quality_plots
from finetune_platform.drift.report import DriftReport, Look, ReferenceOf
from finetune_platform.manifests_drift import ChannelRecord, JudgeRecord, PerformancePoint, PerformanceRecord

ATTACK = '"><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7*7 }}'
CHANNELS = {"novelty of questions": 1e9, "mix of questions": 1.0, "answers": 3.0}
CHROMIUM = Path("/usr/bin/chromium")


class Page(HTMLParser):
    """Collects what a reader and a browser would use."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def look(number: int, value: float) -> Look:
    channels = {**CHANNELS, "novelty of questions": value}
    return Look(
        number=number, since=BEGIN.isoformat(), until=BEGIN.isoformat(), rows=100, counted=90, e_value=value / 3,
        channels=channels, alarm=value > 1000,
    )  # fmt: skip


def alarm(word: str = "flight") -> DriftReport:
    reference, now = kept(home(400)), [*home(100, 400), *strange(30, 600, word=word)]
    since = Since(BEGIN.isoformat(), BEGIN.isoformat(), 130, now, vectors_of(now))
    changes = explain(reference, CHANNELS, since)
    names = [ChannelRecord(name=one.channel, e_value=CHANNELS.get(one.channel, 1.0)) for one in changes.moved]
    return DriftReport(
        found=found(channels=names),
        wanted_rows=2000,
        reference=ReferenceOf(artifact_id="rf-1", rows=400, first=BEGIN.isoformat(), last=BEGIN.isoformat()),
        history=[look(1, 1.0), look(2, 40.0), look(3, 1e9)],
        changes=changes,
    )


def bare(status: str) -> DriftReport:
    history = [look(1, 1.0)] if status == "quiet" else []
    return DriftReport(found=found(status), wanted_rows=2000, reference=None, history=history, changes=None)


def test_the_verdict_stands_first_then_what_to_do_then_the_evidence() -> None:
    report = alarm()
    text = " ".join(" ".join(Page(render_page(report)).text).split()).partition("Drift of")[2]
    top = ["Alarm", "Drift since", "Suspected: input shift", "--anew", "Evidence over time", "Channels What each"]
    below = ["What changed The", "flight booking to Lisbon", "More frequent", "Less frequent", "Tenants Tenants"]
    places = [text.index(part) for part in [*top, *below]]
    assert places == sorted(places)
    assert "in-6" in text


def test_the_same_data_gives_the_same_page() -> None:
    report = alarm()
    assert render_page(DriftReport.model_validate_json(report.model_dump_json())) == render_page(report)


@pytest.mark.parametrize(("status", "told"), [("gathering", "first 2,000 questions"), ("quiet", "Nothing to do")])
def test_before_an_alarm_there_is_a_page_too(status: str, told: str) -> None:
    html = render_page(bare(status))
    assert told in " ".join("".join(Page(html).text).split())
    assert "What changed" not in html and ("Evidence over time" in html) == (status == "quiet")


def test_nothing_is_loaded_from_anywhere_and_links_lead_somewhere() -> None:
    html = render_page(alarm())
    assert not re.search(r"https?://|//[a-z]+\.|@import|url\(", html)
    tags = Page(html).tags
    assert not {"script", "iframe", "img", "object"} & {tag for tag, _ in tags}
    ids = [attrs["id"] for _, attrs in tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert {str(a["href"])[1:] for _, a in tags if str(a.get("href", "")).startswith("#")} <= set(ids)


def test_hostile_text_stays_text_wherever_it_stands() -> None:
    report = alarm()
    changes = report.changes
    assert changes is not None and changes.cause is not None
    report.found.headline = report.found.task = report.found.champion = changes.cause.because = ATTACK
    for moved in changes.moved:
        moved.category = ATTACK
    for words in (*changes.more, *changes.novel.clusters[0].words):
        words.words = ATTACK
    for example in changes.novel.clusters[0].examples:
        example.text = example.interaction_id = ATTACK
    for shares in changes.shares:
        shares.values[0].name = ATTACK
    page = Page(render_page(report))
    assert not {"script", "img"} & {tag for tag, _ in page.tags}
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)
    assert "{{ 7*7 }}" in "".join(page.text)


def quality(degraded: bool) -> DriftReport:
    """A finding of two metrics: one with a history and a baseline, one without either."""
    exact = PerformanceRecord(
        metric="exact_match", estimate=0.5, lower=0.42, upper=0.58, labels_only_lower=0.4, labels_only_upper=0.6,
        method="prediction-powered", n_labels=150, n_judged=800, baseline=0.8, level=0.72, limit=60.0,
        e_value=1234.0 if degraded else 2.0, degraded=degraded, degraded_since=BEGIN.isoformat() if degraded else None,
    )  # fmt: skip
    bare = dict.fromkeys(("estimate", "lower", "upper", "labels_only_lower", "labels_only_upper", "baseline", "level"))
    judge = exact.model_copy(update={**bare, "metric": ATTACK, "e_value": 1.0, "degraded": False, "n_labels": 0})
    problem = JudgeRecord(scored=7, unreadable=2, failed=1, problem=ATTACK, cost_of_30_days=1.5, currency="EUR")
    values = [(0.8, 0.7, 0.9), (0.5, 0.42, 0.58)]
    points = [
        PerformancePoint(metric="exact_match", moment=BEGIN.isoformat(), estimate=v, lower=low, upper=high)
        for v, low, high in values
    ]
    said = found("alarm" if degraded else "quiet", performance=[exact, judge], judge=problem)
    return DriftReport(
        found=said, wanted_rows=2000, reference=None, history=[look(1, 1.0)], changes=None, quality_history=points
    )


def test_quality_stands_first_with_its_interval_against_what_was() -> None:
    html = render_page(quality(degraded=True))
    text = " ".join("".join(Page(html).text).split())
    assert text.index("Quality in production") < text.index("Evidence over time")
    assert "0.420 to 0.580" in text and "degraded, 1,234" in text and "Read which metric is degraded" in text
    assert "scored 7 answers" in text and "1.50 EUR" in text
    assert not {"script", "img"} & {tag for tag, _ in Page(html).tags}
    assert "of 60" in " ".join("".join(Page(render_page(quality(degraded=False))).text).split())
    assert "Quality in production" not in render_page(alarm())


def test_quality_plots_hold_intervals_baseline_and_level_on_one_scale() -> None:
    report = quality(degraded=True)
    exact, judge = quality_plots(report.found.performance, report.quality_history)
    assert judge.bars == [] and exact.baseline is not None and exact.level is not None
    first, last = exact.bars
    assert 0 < first.top < exact.baseline == first.y < exact.level < last.top < last.y < last.bottom < 100
    assert first.x < last.x and "0.500 (0.420 to 0.580)" in last.text


def test_plots_are_on_one_scale_with_the_limit_inside() -> None:
    plots = evidence_plots([look(1, 1.0), look(2, 1e40)], 365.0)
    novelty = plots.channels[0]
    assert novelty.title == "novelty of questions" and novelty.over and novelty.spoke
    assert [point.y for point in novelty.points] == [100.0, 0.0]
    assert 0 < plots.limit < 100 and (plots.grid[0], plots.grid[-1]) == ((100.0, "1"), (0.0, "≥10¹²"))
    quiet = evidence_plots([look(1, 1.0)], 365.0)
    assert 5 < quiet.limit < 50 and [curve.spoke for curve in quiet.channels] == [True, False, False]
    told = [a for tag, a in Page(render_page(alarm())).tags if tag == "svg" and a.get("role") == "img"]
    assert len(told) == 4 and all("UTC: " in str(attrs["aria-label"]) for attrs in told)


def test_numbers_as_people_write_them() -> None:
    assert [evidence(v) for v in (0.5, 12.4, 54321.0, 1.53e27)] == ["0.50", "12", "54,321", "1.5\u00a0×\u00a010²⁷"]
    assert [percent(v) for v in (0.0, 0.0042, 0.12, 1.0)] == ["0%", "0.4%", "12%", "100%"]
    assert (points(0.124), points(-0.05), moment("2026-01-01T10:20:30+00:00")) == ("+12.4", "−5.0", "2026-01-01 10:20")


@pytest.mark.browser
@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (400, "dark")])
def test_a_browser_shows_it_quietly(tmp_path: Path, width: int, scheme: Any) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM.exists():
        pytest.skip(f"no browser: {CHROMIUM} is not there")
    path = tmp_path / "report.html"
    report, measured = alarm("flight" * 30), quality(degraded=True)
    report.found.performance, report.quality_history = measured.found.performance[:1], measured.quality_history
    path.write_text(render_page(report), encoding="utf-8")
    with playwright.sync_playwright() as run:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
        browser = run.chromium.launch(executable_path=str(CHROMIUM), args=flags)
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        requests: list[str] = []
        complaints: list[str] = []
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(path.as_uri())
        assert page.get_by_role("heading", level=1).is_visible()
        assert page.get_by_role("img").first.bounding_box()["height"] > 100
        page.locator("summary").first.click()
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        browser.close()
    assert requests == [path.as_uri()] and complaints == []
