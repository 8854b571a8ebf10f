"""What an alarm is explained with: the rows since, beside the reference's."""

from typing import Any

import pytest
from drift_world import BEGIN, home, kept, strange, vectors_of

from finetune_platform.drift.explanation import Since, explain, growth_began
from finetune_platform.drift.report import Changes
from finetune_platform.drift.rows import TrafficRow
from finetune_platform.drift.tables import DriftTick

LOUD = {"novelty of questions": 1e9, "answers": 1.0}


def explained(now: list[TrafficRow], before: list[TrafficRow] | None = None) -> Changes:
    since = Since(BEGIN.isoformat(), BEGIN.isoformat(), 10 * len(now), now, vectors_of(now))
    return explain(kept(before or home(400)), LOUD, since)


def test_novel_rows_are_grouped_with_their_words_and_examples() -> None:
    told = explained([*home(120, 400), *strange(40, 600), *strange(20, 700, word="hotel")])
    assert (told.logged, told.compared) == (1800, 180)
    assert 60 <= told.novel.rows <= 70 and told.novel.share_before == 0.02
    first, second = told.novel.clusters[:2]
    assert (first.rows, second.rows) == (40, 20) and first.share == pytest.approx(40 / 180)
    assert "flight" in {gram.words.split()[0] for gram in first.words}
    assert all(example.text.startswith("flight booking") for example in first.examples)
    assert all(int(example.interaction_id[3:]) >= 600 for example in first.examples)
    assert any("lisbon" in gram.words for gram in told.more) and all(gram.now > gram.before for gram in told.more)
    assert told.test is not None and told.test.p_value < 0.01
    assert told.cause is not None and told.cause.kind == "input shift"


def test_each_channel_names_what_grew_and_by_how_much() -> None:
    told = {m.channel: m for m in explained([*home(150, 400), *strange(50, 600)]).moved}
    novelty = told["novelty of questions"]
    assert novelty.category == "stranger than 99.8% of the reference"
    assert novelty.now == pytest.approx(0.25, abs=0.05) and novelty.before < 0.02
    assert novelty.distance == pytest.approx(0.25, abs=0.08)
    answers = told["answers"]
    assert (answers.category, answers.now) == ("another", 0.25)
    assert told["errors"].distance < 0.01


def test_shares_of_languages_lengths_and_tenants() -> None:
    german = [
        TrafficRow(
            interaction_id=f"de-{n}", timestamp=BEGIN, tenant="acme", question=f"Ich habe meine Karte verloren {n}"
        )
        for n in range(50)
    ]
    told = {shares.title: shares for shares in explained([*home(150, 400, tenant="cobalt"), *german]).shares}
    languages = {value.name: (value.before, value.now) for value in told["Languages"].values}
    assert languages["de"] == (0, 50)
    assert {value.name: value.now for value in told["Tenants"].values} == {"cobalt": 150, "acme": 50, "none": 0}
    assert sum(value.before for value in told["Lengths"].values) == told["Lengths"].before == 400


def test_a_change_of_one_tenant_is_upstream() -> None:
    rows = [*home(60, 400, tenant="cobalt"), *home(60, 500, tenant="acme"), *strange(40, 600, tenant="acme")]
    told = explained(rows)
    assert told.cause is not None and told.cause.kind == "upstream change" and "acme" in told.cause.because


def test_rows_like_the_references_show_little() -> None:
    told = explained(home(200, 400))
    assert told.novel.rows <= 12 and not told.more and not told.fewer
    assert told.test is not None and told.test.p_value > 0.01


def tick(number: int, alarm: bool, **channels: float) -> Any:
    return DriftTick(number=number, alarm=alarm, channels=channels)


def test_the_growth_is_that_of_the_channel_that_rang() -> None:
    ticks = [
        tick(1, False, novelty=3.0, answers=1.0),
        tick(2, False, novelty=0.9, answers=40.0),
        tick(3, False, novelty=8.0, answers=1.0),
        tick(4, True, novelty=9e5, answers=1.0),
        tick(5, True, novelty=1.0, answers=1.0),
    ]
    assert growth_began(ticks).number == 3
    assert growth_began([tick(1, True, novelty=1e9)]).number == 1
    assert growth_began([tick(1, False, novelty=1.0), tick(2, False, novelty=5.0)]).number == 2, "none rang yet"
