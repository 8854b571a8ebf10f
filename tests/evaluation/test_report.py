"""The page that people open: self-contained, escaped, readable from its data alone."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from recorded_chain import Chain, RecordedEngine, good_adapter

from finetune_platform.evaluation.evaluate import evaluate
from finetune_platform.evaluation.evidence import Evidence
from finetune_platform.evaluation.plots import Axis
from finetune_platform.evaluation.report import render_report
from finetune_platform.task import Task

VOID = {"meta", "link", "br", "hr", "img", "input"}


@pytest.fixture
def evidence(task: Task, chain: Chain) -> Evidence:
    engine = RecordedEngine(good_adapter)
    manifest = evaluate(
        task, chain.dataset, chain.training(), chain.champion(), engine, chain.lake, chain.folder / "work", print
    )
    return Evidence.model_validate_json(chain.lake.get(f"{manifest.path}/report.json"))


class Page(HTMLParser):
    """Checks that tags nest, and collects what a reader and a browser would use."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_the_page_opens_with_its_verdict(evidence: Evidence) -> None:
    page = Page(render_report(evidence))
    text = " ".join(" ".join(page.text).split()).partition("Evaluation of")[2]
    assert text.index("Inconclusive") < text.index(evidence.headline) < text.index("Comparison")
    for arm in evidence.benchmarks[0].arms:
        assert arm.title in text
    for condition in evidence.conditions:
        assert condition[1:] in text
    assert "skipped" not in text and evidence.evaluation_id in text


def test_nothing_is_loaded_from_anywhere(evidence: Evidence) -> None:
    html = render_report(evidence)
    assert not re.search(r"https?://|//[a-z]+\.|@import|url\(", html)
    assert [tag for tag, _ in Page(html).tags if tag in ("script", "iframe", "img", "object", "base")] == []
    links = [str(attrs.get("href")) for tag, attrs in Page(html).tags if "href" in attrs]
    assert all(link.startswith(("#", "data:,")) for link in links)
    assert len(html.encode()) < 1_500_000


def test_every_link_of_the_page_leads_somewhere(evidence: Evidence) -> None:
    tags = Page(render_report(evidence)).tags
    ids = [attrs["id"] for _, attrs in tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    targets = {str(a["href"])[1:] for _, a in tags if str(a.get("href", "")).startswith("#")}
    labels = {str(a["aria-labelledby"]) for _, a in tags if "aria-labelledby" in a}
    assert targets | labels <= set(ids)


def test_hostile_text_stays_text_wherever_it_stands(evidence: Evidence) -> None:
    attack = '"><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7*7 }}'
    hostile = evidence.model_copy(deep=True)
    hostile.headline = hostile.description = hostile.task = hostile.chosen_how = attack
    hostile.notes, hostile.prompts, hostile.provenance = [attack], {attack: attack}, {attack: {attack: attack}}
    hostile.conditions = [attack for _ in hostile.conditions]
    for gate in hostile.gates:
        gate.reason = attack
    for arm in hostile.benchmarks[0].arms:
        arm.title = arm.description = attack
    for stratum in hostile.benchmarks[0].strata:
        stratum.slice = attack
    for example in hostile.examples:
        example.gold, example.prompt, example.strata = attack, [{"role": attack, "content": attack}], {"x": attack}
        for answer in example.answers:
            answer.text = attack
            for segment in answer.segments:
                segment.text = attack
    page = Page(render_report(hostile))
    assert not {"script", "img"} & {tag for tag, _ in page.tags}
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)
    assert "{{ 7*7 }}" in "".join(page.text)


def test_plots_are_told_to_those_who_cannot_see_them(evidence: Evidence) -> None:
    plots = [attrs for tag, attrs in Page(render_report(evidence)).tags if tag == "svg" and attrs.get("role") == "img"]
    assert len(plots) > 20
    assert all(re.search(r"\d|nothing to measure", str(attrs["aria-label"])) for attrs in plots)
    assert any("New adapter: 0.9" in str(attrs["aria-label"]) for attrs in plots)


def test_verdicts_are_words_not_colours_alone(evidence: Evidence) -> None:
    failed = evidence.model_copy(deep=True)
    for gate, verdict in zip(failed.gates, ("fail", "inconclusive", "skipped", "pass"), strict=False):
        gate.verdict = verdict
    text = " ".join(Page(render_report(failed)).text)
    assert all(word in text for word in ("Fail", "Inconclusive", "Skipped", "Pass"))


@pytest.mark.parametrize("strata", [True, False])
def test_a_bare_task_has_a_page_too(task: Task, chain: Chain, strata: bool) -> None:
    data = task.model_dump()
    data["evaluation"] |= {
        "metrics": ["token_f1"],
        "primary_metric": "token_f1",
        "entities": None,
        "gates": [],
        "side_by_side": 3 if strata else 0,
    }
    data["cost"] = {}
    if not strata:
        for row in [*chain.train, *chain.test]:
            row.task_type = row.difficulty = ""
        dataset = chain.publish_dataset("ds-bare", chain.train, chain.test)
    else:
        dataset = chain.dataset
    manifest = evaluate(
        Task.model_validate(data),
        dataset,
        chain.training(dataset=dataset.artifact_id),
        None,
        RecordedEngine(good_adapter),
        chain.lake,
        chain.folder / "work",
        print,
    )
    html = chain.lake.get(f"{manifest.path}/report.html").decode()
    Page(html)
    assert "no hard gate" in manifest.headline and "sets no gates" in html
    assert ("By stratum" in html) == strata and ("Side by side" in html) == strata


@pytest.mark.parametrize(
    ("values", "low", "high", "labels"),
    [
        ([0.8, -0.1], -0.25, 1.0, ["−0.25", "0", "0.25", "0.50", "0.75", "1.00"]),
        ([3.2], 0.0, 4.0, ["0", "1", "2", "3", "4"]),
        ([0.0], 0.0, 1.0, ["0", "0.25", "0.50", "0.75", "1.00"]),
        ([0.011, -0.03], -0.04, 0.02, ["−0.04", "−0.02", "0", "0.02"]),
    ],
)
def test_axes_have_round_ends_that_hold_the_data(
    values: list[float], low: float, high: float, labels: list[str]
) -> None:
    axis = Axis.around(values)
    assert (axis.low, axis.high) == pytest.approx((low, high))
    assert [text for _, text in axis.ticks()] == labels
    assert all(0 <= axis.at(v) <= 100 for v in values)


CHROMIUM = Path("/usr/bin/chromium")


@pytest.mark.browser
@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (400, "dark")])
def test_a_browser_shows_it_quietly(evidence: Evidence, tmp_path: Path, width: int, scheme: str) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM.exists():
        pytest.skip(f"no browser: {CHROMIUM} is not there")
    path = tmp_path / "report.html"
    path.write_text(render_report(evidence), encoding="utf-8")
    with playwright.sync_playwright() as run:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
        browser = run.chromium.launch(executable_path=str(CHROMIUM), args=flags)
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        requests: list[str] = []
        complaints: list[str] = []
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(dialog.message))
        page.goto(path.as_uri())
        assert page.locator("h1").inner_text() == evidence.headline
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert page.locator("svg.track circle").first.bounding_box()["width"] > 5
        browser.close()
    assert (complaints, requests) == ([], [path.as_uri()])
