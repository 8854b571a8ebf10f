"""What the pages' HTML holds, and what it must not."""

from html.parser import HTMLParser
from typing import Any

import pytest
from review_batches import BATCH, TASK, a_batch, item, say

from finetune_platform.database import Database
from finetune_platform.labeling.batches import read_batch
from finetune_platform.labeling.guidelines import html_of
from finetune_platform.review.desk import Desk, Opened
from finetune_platform.review.figures_page import figures_html, scale_of
from finetune_platform.review.fragments import duration, fragment
from finetune_platform.review.rows_page import row_html
from finetune_platform.task import Task
from finetune_platform.task_file import load_task

NASTY = "<script>hurt()</script><img src=x onerror=hurt()></textarea></div>\" onfocus='hurt()' {{ 7 * 7 }}"


class Reader(HTMLParser):
    """The text of a piece of HTML, and its tags with their attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.words, self.tags, self.attributes = "", set[str](), set[str]()
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.words += data


@pytest.fixture
def task(task_file: Any) -> Task:
    return load_task(task_file(name=TASK))


def first_row(database: Database, task: Task) -> Opened:
    found = Desk(database, task, "ann").next()
    assert found is not None
    return found


@pytest.mark.parametrize("labels", [[], [NASTY, "b"]])
def test_what_users_and_models_wrote_is_text(database: Database, task_file: Any, labels: list[str]) -> None:
    task = load_task(task_file(name=TASK, labeling={"labels": labels, "guidelines": NASTY}))
    a_batch(database, [item(NASTY, suggestion=NASTY)])
    html = row_html(task, first_row(database, task), NASTY) + fragment("beside", task=task)
    found = Reader(html)
    assert not found.tags & {"script", "img"} and not {a for a in found.attributes if a.startswith("on")}
    assert found.words.count(NASTY) >= 3 and "{{ 7 * 7 }}" in found.words


def test_a_hidden_suggestion_is_not_in_the_source(database: Database, task: Task) -> None:
    a_batch(database, [item("hello", suggestion="secretword", hides_suggestion=True)])
    html = row_html(task, first_row(database, task), "ann")
    assert "secretword" not in html and "hidden here" in html and "rating" not in html


def test_a_gold_row_looks_like_any_other(database: Database, task: Task) -> None:
    a_batch(database, [item("hello", selection="gold", gold="knownanswer")])
    gold = row_html(task, first_row(database, task), "ann")
    a_batch(database, [item("hello")], cause="alarm 2", batch_id="rb-000000000002")
    plain = row_html(task, first_row(database, task), "ann")
    assert "knownanswer" not in gold and "gold" not in gold
    assert Reader(gold).words == Reader(plain).words


def test_nobody_sees_what_others_said(database: Database, task: Task) -> None:
    a_batch(database, [item(wanted=2)])
    say(database, 1, "bob", "bobsanswer")
    assert "bob" not in row_html(task, first_row(database, task), "ann")


def test_a_line_break_at_the_beginning_stays(database: Database, task: Task) -> None:
    a_batch(database, [item(suggestion="\n\nsecond")])
    html = row_html(task, first_row(database, task), "ann")
    # A parser drops one line break after the tag.
    assert 'dir="auto">\n\n\nsecond</textarea>' in html


@pytest.mark.parametrize(
    "markdown",
    [
        "<b onclick=hurt()>x</b>",
        "[x](javascript:hurt())",
        "[x](JaVaScRiPt&colon;hurt())",
        "![x](data:text/html;base64,AAAA)",
        "<javascript:hurt()>",
        "[x]: javascript:hurt()\n\n[x]",
    ],
)
def test_guidelines_can_do_nothing(markdown: str) -> None:
    found = Reader(html_of(markdown))
    assert found.tags <= {"p", "em", "strong"} and not found.attributes


def test_guidelines_are_formatted() -> None:
    html = html_of("# Title\n\n* one\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n[there](https://example.com)")
    assert {"h1", "li", "table", "a"} <= Reader(html).tags
    assert 'target="_blank"' in html and 'rel="noopener noreferrer"' in html


def test_figures_hold_readiness_and_people(database: Database, task: Task) -> None:
    a_batch(database, [item(NASTY, wanted=2), item("q2", selection="gold", gold="greeting")])
    for name in ("ann", "bob"):
        say(database, 1, name, NASTY if name == "ann" else "greeting")
    say(database, 2, "ann", "greeting")
    found = Reader(figures_html(database, task, read_batch(database, BATCH)))
    assert "1 of 2 rows are neither answered nor decided" in found.words and "1 of 1" in found.words
    assert not found.tags & {"script", "img"}


def test_the_scale_begins_where_the_interval_does() -> None:
    assert scale_of(None, None, None, 0.667) is None
    scale = scale_of(0.0, -0.25, 0.5, 0.667)
    assert scale is not None and (scale.lower, scale.zero, scale.begins) == (0.0, 20.0, -0.25)


@pytest.mark.parametrize(
    ("seconds", "words"), [(None, "–"), (8.4, "8 s"), (240, "4 min"), (5000, "83 min"), (6000, "1 h 40 min")]
)
def test_durations_in_words(seconds: float | None, words: str) -> None:
    assert duration(seconds) == words
