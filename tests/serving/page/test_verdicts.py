"""The sentence of a task, and what its buttons say, for every state that an operator may meet."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from finetune_platform.serving.page.offers import offers_of, place_of
from finetune_platform.serving.page.scales import difference_of, rails_of
from finetune_platform.serving.page.verdicts import verdict_of
from finetune_platform.serving.plan import Plan

NOW = datetime(2026, 3, 1, tzinfo=UTC)
CANARY = Plan(champion="ad-1", previous_champion="ad-0", canary="ad-2", canary_share=0.25)


def rollout(state: str = "running", place: str = "25%", hours_ago: float = 1, **e_values: float) -> dict[str, Any]:
    names = ("errors", "latency", "valid_format", "refusals", "feedback")
    rail = {"limit": 100.0, "canary": 0.01, "canary_n": 200, "champion": 0.01, "champion_n": 900}
    return {
        "rollout_id": "ro-1",
        "adapter_id": "ad-2",
        "state": state,
        "place": place,
        "percent": 0 if place == "shadow" else int(place[:-1]),
        "steps": [5, 25, 50, 100],
        "updated_at": (NOW - timedelta(hours=hours_ago)).isoformat(),
        "difference": {"observed": 0.01, "lower": -0.02, "upper": 0.04, "must_exceed": -0.05},
        "guardrails": [{"name": name, "e_value": e_values.get(name, 0.5), **rail} for name in names],
    }


@pytest.mark.parametrize(
    ("plan", "told", "tone", "sentence"),
    [
        (Plan(), None, "idle", "the base model answers everything"),
        (Plan(champion="ad-1"), None, "good", "ad-1 answers everything"),
        (CANARY, rollout(), "good", "ad-1 answers 75%, the canary ad-2 25%; running, nothing speaks against it"),
        (
            CANARY,
            rollout(errors=30.0, feedback=11.0),
            "watch",
            "ad-1 answers 75%, the canary ad-2 25%; running, errors and bad ratings speak against it",
        ),
        (
            CANARY.model_copy(update={"canary_share": 1.0}),
            rollout("held", "100%"),
            "watch",
            "the canary ad-2 answers everything; held, nothing speaks against it",
        ),
        (
            Plan(champion="ad-1", shadow="ad-2", shadow_share=1.0),
            rollout(place="shadow"),
            "good",
            "ad-1 answers everything, ad-2 answers copies that nobody is shown; running, nothing speaks against it",
        ),
        (
            Plan(champion="ad-1", withdrawn=["ad-2"]),
            rollout("rolled_back"),
            "watch",
            "ad-1 answers everything; the canary ad-2 was rolled back",
        ),
        (Plan(champion="ad-1"), rollout("rolled_back", hours_ago=30), "good", "ad-1 answers everything"),
        (Plan(champion="ad-2"), rollout("promoted", "100%"), "good", "ad-2 answers everything"),
        (
            CANARY.model_copy(update={"killed": "all wrong"}),
            rollout(),
            "bad",
            "the base model answers everything, all adapters are stopped: “all wrong”",
        ),
    ],
)
def test_one_sentence(plan: Plan, told: dict[str, Any] | None, tone: str, sentence: str) -> None:
    verdict = verdict_of(plan, told, now=NOW)
    assert (verdict.text, verdict.tone) == (sentence, tone)


def test_a_canary_that_rests_while_the_database_is_away_is_told() -> None:
    verdict = verdict_of(Plan(champion="ad-1"), rollout(), away=True, now=NOW)
    assert verdict.text == "ad-1 answers everything; the canary ad-2 rests until the database answers again"


@pytest.mark.parametrize(
    ("plan", "told", "possible"),
    [
        (Plan(), None, {"kill"}),
        (Plan(champion="ad-1"), None, {"demote", "kill"}),
        (CANARY, rollout(), {"step", "hold", "abort", "rollback", "demote", "kill"}),
        (CANARY, rollout("held"), {"step", "resume", "abort", "rollback", "demote", "kill"}),
        (Plan(champion="ad-2", killed="x"), rollout("promoted", "100%"), {"demote", "revive"}),
    ],
)
def test_what_is_possible_is_offered(plan: Plan, told: dict[str, Any] | None, possible: set[str]) -> None:
    offers = offers_of(plan, told, may_change=True, database_is_away=False)
    assert {action for action, offer in offers.items() if not offer.refusal} == possible
    assert all(offer.consequence for offer in offers.values() if not offer.refusal)
    nothing = offers_of(plan, told, may_change=False, database_is_away=False)
    assert all(offer.refusal for offer in nothing.values())
    away = offers_of(plan, told, may_change=True, database_is_away=True)
    assert {action for action, offer in away.items() if not offer.refusal} == possible & {"kill"}


def test_a_button_says_what_will_happen() -> None:
    said = {a: o.consequence for a, o in offers_of(CANARY, rollout(), may_change=True, database_is_away=False).items()}
    assert "ad-2 answers 50% of the sessions instead of 25%" in said["step"]
    assert said["demote"].endswith("ad-0 answers in its place.")
    last = offers_of(CANARY, rollout(place="100%"), may_change=True, database_is_away=False)["step"]
    assert last.label == "Promote to champion" and "ad-1 stays ready as the first fallback" in last.consequence
    first = offers_of(Plan(), rollout(place="shadow"), may_change=True, database_is_away=False)["step"]
    assert first.label == "Next step: 5%"


def test_whoever_decided_on_another_state_is_found_out() -> None:
    before = place_of(rollout(), CANARY)
    assert before == place_of(rollout(errors=99.0), CANARY), "figures may move"
    for told, plan in ((rollout("held"), CANARY), (rollout(place="50%"), CANARY), (rollout(), Plan(champion="ad-9"))):
        assert place_of(told, plan) != before


def test_drawings_put_figures_in_order() -> None:
    difference = difference_of(rollout())
    assert 0 <= difference.limit < difference.lower < difference.zero < difference.observed < difference.upper <= 100
    assert difference.tone == "good" and "Good enough for the next step" in difference.sentence
    rails = rails_of(rollout(errors=0.001, latency=1.0, valid_format=99.0, refusals=100.0, feedback=1e300))
    assert [rail.at for rail in rails] == sorted(rail.at for rail in rails) and rails[-1].at == 100
    assert rails[1].at == rails[1].even and rails[2].at < rails[3].at == rails[3].limit
    assert [rail.tone for rail in rails] == ["good", "good", "watch", "bad", "bad"]
