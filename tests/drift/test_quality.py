"""Looks at quality with a real lake: answers are measured once, a judge that failed is asked again, new beginnings."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest

from finetune_platform.drift.measured import measure_anew, measurements_path, read_measurements
from finetune_platform.drift.performance import FEEDBACK, JUDGE, Baseline
from finetune_platform.drift.quality import Answer, Production, Quality, look_at_quality, with_quality
from finetune_platform.drift.rows import TrafficRow
from finetune_platform.drift.state import Champion
from finetune_platform.errors import TransientError
from finetune_platform.inference.judge import Judgement
from finetune_platform.lake import Lake, Once
from finetune_platform.manifests_drift import DriftManifest
from finetune_platform.progress import Report
from finetune_platform.task import Task

START = datetime(2026, 1, 1, tzinfo=UTC)
PATH = "t/measurements"


class Echo:
    """Scores an answer by what it says: "good", "bad", "?" (unreadable); fails while `down`."""

    judge_id = "jd-1"

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.down = False

    def judge(self, rows: Sequence[tuple[str, str]], report: Report) -> list[Judgement]:
        self.asked += [question for question, _ in rows]
        if self.down:
            return [Judgement(None, "failed", "the server is down")] * len(rows)
        read = {"good": Judgement(0.9, "scored"), "bad": Judgement(0.1, "scored")}
        return [read.get(answer, Judgement(None, "unreadable", 'it said "?"')) for _, answer in rows]


class World:
    """What production holds so far."""

    def __init__(self, with_judge: bool = True) -> None:
        self.rows: list[TrafficRow] = []
        self.labelled: list[tuple[datetime, Answer]] = []
        self.voted: dict[str, bool] = {}
        self.judge = Echo() if with_judge else None
        judge = {"scorer": "some.module:function", "max_rows": 20, "price_per_call": 0.01} if with_judge else None
        self.task = Task.model_validate(
            {
                "name": "t",
                "description": "d",
                "base_model": "org/model",
                "system_prompt": "",
                "baseline_prompt": "p",
                "sources": [{"uri": "x.jsonl", "format": "messages"}],
                "evaluation": {"metrics": ["exact_match"]},
                "drift": {"settle_minutes": 0},
                "judge": judge,
            }
        )

    def answered(self, day: int, answers: Sequence[str], **fields: bool) -> None:
        self.rows += [
            TrafficRow(
                interaction_id=f"in-{day}-{n}",
                timestamp=START + timedelta(days=day, seconds=n),
                question=f"q{day}-{n}",
                answer=answer,
                **fields,
            )
            for n, answer in enumerate(answers)
        ]

    def label(self, day: int, scores: Sequence[float]) -> None:
        self.labelled += [
            (START + timedelta(days=day), Answer(f"lb-{day}-{n}", f"l{day}-{n}", "good", {"exact_match": score}, 10.0))
            for n, score in enumerate(scores)
        ]

    def look(self, lake: Lake, day: float) -> Quality:
        now = START + timedelta(days=day)
        production = Production(
            Champion("ad-1", START),
            lambda after, until: [[row for row in self.rows if after < row.timestamp <= until]],
            lambda since: [row for at, row in self.labelled if since <= at <= now],
            lambda since: self.voted,
            lambda question: question[:1],
            self.judge,
            {"exact_match": Baseline(0.9, 0.85)},
        )
        return look_at_quality(self.task, production, lake, now, lambda line: None)


def test_each_answer_is_scored_once_and_what_all_looks_say_is_told(lake: Lake) -> None:
    world = World()
    assert world.look(lake, 0.5).performance == []
    world.answered(1, ["good"] * 30 + ["?"] * 5)
    world.answered(1, ["good"], failed=True)
    world.label(1, [1.0] * 8 + [0.0] * 2)
    world.voted = {"in-1-0": True}
    first = world.look(lake, 2)
    assert world.judge is not None and first.judge is not None
    assert len(world.judge.asked) == len(set(world.judge.asked)) == 30  # ten labels and twenty of the others
    assert first.judge.scored + first.judge.unreadable == 30 and first.judge.failed == 0
    assert first.judge.cost_of_30_days == pytest.approx(0.3) and first.judge.currency == "USD"
    told = {record.metric: record for record in first.performance}
    assert (told["exact_match"].n_labels, told["exact_match"].n_judged) == (10, 20)
    assert told["exact_match"].estimate == pytest.approx(0.8)
    assert told[FEEDBACK].n_labels == 1 and told[JUDGE].estimate == pytest.approx(0.9)
    again = world.look(lake, 2.5)
    assert len(world.judge.asked) == 30 and again.performance == first.performance
    world.answered(3, ["bad"] * 10)
    third = world.look(lake, 4)
    assert {question[:2] for question in world.judge.asked[30:]} == {"q3"}
    assert {record.metric: record for record in third.performance}[JUDGE].n_labels == told[JUDGE].n_labels + 10
    assert [point.metric for point in third.history].count(JUDGE) == 2
    weights = lake.table(measurements_path("t")).to_pyarrow_table().to_pylist()
    assert {row["weight"] for row in weights if row["kind"] == "sampled" and row["look"] == 1} == {35 / 20}
    assert {row["weight"] for row in weights if row["kind"] == "labelled"} == {10.0}


def test_answers_that_the_judge_could_not_be_asked_about_are_asked_about_again(local_lake: Lake) -> None:
    world = World()
    assert world.judge is not None
    world.answered(1, ["good"] * 10)
    world.judge.down = True
    down = world.look(local_lake, 2)
    assert down.performance == [] and down.judge is not None
    assert (down.judge.failed, down.judge.problem, down.judge.cost_of_30_days) == (10, "the server is down", 0)
    world.judge.down = False
    assert world.look(local_lake, 3).performance[0].n_labels == 10


def test_labels_alone_measure_where_there_is_no_judge(local_lake: Lake) -> None:
    world = World(with_judge=False)
    world.answered(1, ["good"] * 10)
    world.label(1, [1.0] * 30 + [0.0] * 10)
    found = world.look(local_lake, 2)
    [record] = found.performance
    assert (record.metric, record.n_judged, found.judge) == ("exact_match", 0, None)
    assert record.estimate == pytest.approx(0.75)


def test_a_degraded_metric_makes_the_finding_an_alarm_until_somebody_begins_anew(local_lake: Lake) -> None:
    world = World(with_judge=False)
    for day in range(1, 6):
        world.label(day, [1.0, 0.0] * 15)
        found = world.look(local_lake, day + 0.5)
    quiet = DriftManifest(
        artifact_id="dr-0", task="t", code_version="2", status="quiet", headline="no drift", champion="ad-1", tick=1,
        since="", until="", rows=0, counted=0, e_value=1.0, limit=365.0, channels=[],
    )  # fmt: skip
    alarm = with_quality(quiet, found)
    assert alarm.status == "alarm" and alarm.artifact_id != "dr-0"
    assert alarm.headline.startswith("exact_match 0.50 (0.4") and "is below 0.81 since 2026-01-0" in alarm.headline
    since = found.performance[0].degraded_since
    assert alarm.alarms == [f"ad-1 exact_match {since}"]
    assert with_quality(quiet, world.look(local_lake, 9)).alarms == alarm.alarms
    measure_anew(local_lake, "t", START + timedelta(days=10))
    anew = world.look(local_lake, 11)
    assert anew.performance == [] and with_quality(quiet, anew).status == "quiet"
    world.label(12, [1.0] * 5)
    assert world.look(local_lake, 12.5).performance[0].n_labels == 5


def test_of_two_looks_at_once_one_counts(local_lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(with_judge=False)
    world.label(1, [1.0] * 5)
    world.look(local_lake, 1.5)
    world.label(2, [1.0] * 5)
    append = Lake.append

    def late(lake: Lake, path: str, table: object, once: Once | None = None, partition_by: str | None = None) -> bool:
        monkeypatch.setattr(Lake, "append", append)
        world.look(local_lake, 2.5)  # The other one, while the first is about to write.
        return append(lake, path, table, once, partition_by)  # type: ignore[arg-type]

    monkeypatch.setattr(Lake, "append", late)
    with pytest.raises(TransientError, match="faster"):
        world.look(local_lake, 2.5)
    assert len(read_measurements(local_lake, "t", "ad-1", START).rows) == 10


def test_to_begin_anew_where_nothing_was_measured_is_nothing(local_lake: Lake) -> None:
    measure_anew(local_lake, "t", START)
    with pytest.raises(FileNotFoundError):
        local_lake.table(PATH)
