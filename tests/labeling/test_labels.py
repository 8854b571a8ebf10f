"""Decisions as labels: written once, the best of each prompt in a set, traceable to who said what on what."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from review_batches import BATCH, TASK, a_batch, item, say

from finetune_platform.database import Database
from finetune_platform.labeling.answering import Annotation, adjudicate
from finetune_platform.labeling.batches import Batch, close_batch, read_batch
from finetune_platform.labeling.figures import figures_of
from finetune_platform.labeling.labels import (
    Correction,
    LabelFrom,
    keep_expert_labels,
    keep_production_labels,
    labelled_interactions,
    measuring_labels,
    publish_label_set,
)
from finetune_platform.labeling.readiness import readiness_of
from finetune_platform.lake import Lake
from finetune_platform.manifests import LabelsManifest
from finetune_platform.rows import LABELS_NAME, Message, labels_path

TRUST: dict[LabelFrom, float] = {"correction": 0.7, "accepted": 0.3}


def a_closed_batch(database: Database) -> Batch:
    """Four rows: one answered by one, one agreed on, one decided, one gold."""
    a_batch(database, [item("q1"), item("q2", wanted=2), item("q3", wanted=2), item("q4", selection="gold", gold="x")])
    say(database, 1, "ann", "greeting")
    for name in ("ann", "bob"):
        say(database, 2, name, "farewell")
        say(database, 3, name, name)
    say(database, 4, "bob", "x")
    adjudicate(database, BATCH, 3, "cy", Annotation("answer", "greeting"))
    return close_batch(database, BATCH)


def correction(interaction_id: str, question: str, answer: str, **changed: Any) -> Correction:
    said = Correction(
        interaction_id=interaction_id,
        messages=(Message(role="user", content=question),),
        answered="greeting",
        answer=answer,
        label_from="correction",
        adapter_id="ad-1",
        said_by="key 1",
        said_at=datetime(2026, 1, 1, tzinfo=UTC),
    )
    return said._replace(**changed)


def labels_of_interaction(lake: Lake, interaction_id: str) -> list[dict[str, Any]]:
    rows = lake.table(labels_path(TASK)).to_pyarrow_table().to_pylist()
    return [row for row in rows if row["interaction_id"] == interaction_id]


def rows_of(lake: Lake, labels: LabelsManifest) -> list[dict[str, Any]]:
    return pq.read_table(pa.BufferReader(lake.get(f"{labels.path}/{LABELS_NAME}"))).to_pylist()


@pytest.fixture
def batch(database: Database) -> Batch:
    return a_closed_batch(database)


def test_every_label_says_who_decided_what_on_which_interaction(batch: Batch, lake: Lake) -> None:
    assert keep_expert_labels(lake, batch) == keep_expert_labels(lake, batch) == 3
    (label,) = labels_of_interaction(lake, "in-3")
    assert (label["answer"], label["how"], label["decided_by"]) == ("greeting", "adjudication", ["cy"])
    assert (label["batch_id"], label["number"], label["adapter_id"]) == (BATCH, 3, "ad-1")
    (agreed,) = labels_of_interaction(lake, "in-2")
    assert (agreed["how"], agreed["decided_by"]) == ("agreement", ["ann", "bob"])
    assert labelled_interactions(lake, TASK) == {"in-1", "in-2", "in-3"}


def test_what_experts_say_of_answers_that_were_drawn_at_random_measures(database: Database, local_lake: Lake) -> None:
    another = item("q2").model_copy(update={"adapter_id": "ad-2"})
    a_batch(database, [item("q1"), another, item("q3", selection="hard")])
    for number in (1, 2, 3):
        say(database, number, "ann", "greeting")
    keep_expert_labels(local_lake, close_batch(database, BATCH))
    keep_production_labels(local_lake, TASK, [correction("in-9", "q9", "farewell")], TRUST)
    long_ago = datetime(2020, 1, 1, tzinfo=UTC)
    (label,) = measuring_labels(local_lake, TASK, "ad-1", long_ago)
    assert (label["interaction_id"], label["answer"], label["inclusion_probability"]) == ("in-1", "greeting", 0.5)
    assert measuring_labels(local_lake, TASK, "ad-1", datetime.now(UTC) + timedelta(hours=1)) == []
    assert measuring_labels(local_lake, "other", "ad-1", long_ago) == []


def test_a_set_holds_the_most_trusted_label_of_each_prompt(batch: Batch, local_lake: Lake) -> None:
    keep_expert_labels(local_lake, batch)
    said = [
        correction("in-9", "q1", "farewell"),
        correction("in-8", "q8", "farewell"),
        correction("in-8", "q8", "greeting", said_at=datetime(2026, 1, 2, tzinfo=UTC)),
        correction("in-7", "q7", "greeting", label_from="accepted"),
    ]
    assert keep_production_labels(local_lake, TASK, said, TRUST) == 4
    assert keep_production_labels(local_lake, TASK, said, TRUST) == 0
    labels = publish_label_set(local_lake, TASK, 0.5, batch, figures_of(batch, 0.3))
    assert labels.rows == 4 and labels.by_source == {"expert": 3, "correction": 1, "accepted": 0}
    assert (labels.replaced, labels.distrusted, labels.batches) == (2, 1, [BATCH])
    # The users' newer word, and the experts' over the users'.
    by_question = {row["messages"].split('"')[3]: row["answer"] for row in rows_of(local_lake, labels)}
    assert by_question == {"q1": "greeting", "q2": "farewell", "q3": "greeting", "q8": "greeting"}
    assert publish_label_set(local_lake, TASK, 0.5, batch, figures_of(batch, 0.3)).artifact_id == labels.artifact_id


def test_a_batch_in_figures(batch: Batch) -> None:
    figures = figures_of(batch, price_of_a_label=0.3)
    bob = next(person for person in figures.people if person.reviewer == "bob")
    assert (bob.answered, bob.gold_right, bob.gold_answered, bob.overruled, bob.seconds) == (3, 1, 1, 1, 4.0)
    assert figures.alpha.items == 2
    assert [(c.one, c.other, c.times) for c in figures.confusions] == [("ann", "bob", 1)]
    assert figures.cost == pytest.approx(0.3 * 7)
    assert (figures.anchoring.shown_equal, figures.anchoring.shown) == (1, 5)


def test_an_open_batch_waits_and_low_agreement_holds(database: Database) -> None:
    a_batch(database, [item(f"q{i}", wanted=2) for i in range(20)])
    for number in range(1, 21):
        say(database, number, "ann", "greeting" if number % 2 else "farewell")
        say(database, number, "bob", "greeting" if number % 2 or number < 11 else "farewell")
    batch = read_batch(database, BATCH)
    assert readiness_of(batch, figures_of(batch, 0), 0.667).state == "waiting"
    for number in range(2, 11, 2):
        adjudicate(database, BATCH, number, "cy", Annotation("answer", "farewell"))
    batch = read_batch(database, BATCH)
    held = readiness_of(batch, figures_of(batch, 0), 0.667)
    assert held.state == "low_agreement" and '"farewell" and "greeting" (5x)' in held.reason
    assert readiness_of(batch, figures_of(batch, 0), 0.0).state == "ready"


def test_of_two_writers_at_once_none_doubles_a_label(local_lake: Lake) -> None:
    said = [correction(f"in-{i}", f"q{i}", "farewell") for i in range(5)]
    later = [one._replace(said_at=one.said_at + timedelta(days=1)) for one in said]
    assert keep_production_labels(local_lake, TASK, said, TRUST) == 5
    assert keep_production_labels(local_lake, TASK, [*said, *later], TRUST) == 0
    assert len(labels_of_interaction(local_lake, "in-1")) == 1
