"""The cycle, step by step. Sensors start every run; this only drops the data, sends traffic, answers as experts would.

Killed anywhere, the same command goes on: what was answered is noted, what has run is found.
"""

import json
import time
from collections.abc import Callable, Sequence

from dagster import DagsterInstance
from rich.console import Console
from rich.text import Text

from finetune_platform.commands.loop_demo.experts import NOISE, answer_batch
from finetune_platform.commands.loop_demo.measuring import Change, changes
from finetune_platform.commands.loop_demo.place import TASK_NAME, Place, Row
from finetune_platform.commands.loop_demo.traffic import Answer, Callers
from finetune_platform.commands.loop_demo.waiting import Found, follow, run_of, until
from finetune_platform.commands.processes import Service
from finetune_platform.errors import PermanentError
from finetune_platform.labeling.batches import newest_batch, read_batch
from finetune_platform.labeling.figures import figures_of
from finetune_platform.labeling.readiness import alpha_in_words
from finetune_platform.manifests_drift import DriftManifest
from finetune_platform.progress import duration
from finetune_platform.sensors.chain import STAGES
from finetune_platform.sensors.labels_ready import RETRAIN_STAGES
from finetune_platform.serving import rollouts
from finetune_platform.serving.routes import current

SENSOR_S, RUN_S, ROLLOUT_S = 180.0, 1800.0, 600.0
WAVE = 20
"""Sentences that are sent between two looks at a rollout."""


class Cycle:
    """One cycle of one place.

    Args:
        place: The loop's installation.
        instance: Its Dagster.
        services: Its servers.
        callers: Of its gateway.
        out: Where people read.
    """

    def __init__(
        self, place: Place, instance: DagsterInstance, services: Sequence[Service], callers: Callers, out: Console
    ) -> None:
        self.place, self.instance, self.services, self.callers, self.out = place, instance, services, callers, out
        self.began, self.steps = time.monotonic(), 0

    def run(self) -> list[Change]:
        """All steps; what became of quality on the sentences that nobody labelled."""
        rows = self.place.rows
        first = self._first_adapter()
        self._step("traffic of the kind that it knows", "no alarm is due")
        self._send("quiet", rows.quiet)
        self._wait_for_look("quiet", len(rows.quiet))
        self._step("traffic of a kind that it does not know", "sentences that name the parties of the loan")
        self._send("shifted", rows.shifted)
        report = self._alarm()
        before = self._send("before", rows.measured)
        self._experts(report)
        second = self._second_adapter(first)
        after = self._send("after", rows.measured)
        self._expect_answered_by(before, first)
        self._expect_answered_by(after, second)
        return changes(self.place.task, before, after)

    def _first_adapter(self) -> str:
        self._step("the first adapter", f"{len(self.place.rows.first)} sentences are dropped into {TASK_NAME}/raw/")
        lines = [
            json.dumps({"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": gold}]})
            for q, gold in self.place.rows.first
        ]
        data = "".join(f"{line}\n" for line in lines).encode()
        if not self.place.lake.exists(path := f"{TASK_NAME}/raw/first.jsonl"):
            self.place.lake.put(path, data)
        run = self._until(lambda: run_of(self.instance, f"{TASK_NAME}_chain"), "the sensor new_data", SENSOR_S)
        follow(self.instance, run.run_id, STAGES, self.services)
        return self._promoted("the first adapter", "rollout 1", self.place.rows.first)

    def _promoted(self, what: str, phase: str, rows: Sequence[Row]) -> str:
        """Sends traffic until the newest rollout has ended as champion; the adapter."""
        sent = len(self.callers.of_phase(phase))
        began = time.monotonic()
        while True:
            with self.place.database.reading() as session:
                row = rollouts.latest(session, TASK_NAME)
                champion = current(session, TASK_NAME).plan.champion
            if row is not None and row.state == "promoted" and champion == row.adapter_id:
                self._say(f"{row.adapter_id} is champion: {row.message}")
                return row.adapter_id
            if row is not None and row.state in ("rolled_back", "aborted", "held"):
                raise PermanentError(f"{what}: {row.state}: {row.message}", "see the operator's page")
            if time.monotonic() - began > ROLLOUT_S:
                raise PermanentError(f"{what}: no decision in {ROLLOUT_S:.0f} s", "see the operator's page")
            # A phase's sentences come once; a rollout needs as many as it needs.
            wave = [rows[(sent + i) % len(rows)] for i in range(WAVE)]
            self.callers.send(f"{phase}.{sent // WAVE}", wave, lambda done, total: None)
            sent += WAVE
            self._say(f"{sent} requests; {row.message if row else 'the rollout has not begun'}")

    def _wait_for_look(self, phase: str, rows: int) -> None:
        """Until the looks have come to an end: all but a last few rows have been looked at."""

        def looked() -> DriftManifest | None:
            report = self._report()
            return report if report is not None and report.tick >= 1 else None

        report = self._until(looked, "a look at the traffic (sensor drift_rows)", 3 * SENSOR_S)
        self._say(f"{report.artifact_id}: {report.headline}")
        if report.status == "alarm":
            raise PermanentError(f"an alarm on {phase} traffic: {report.headline}", "see the drift report")

    def _report(self) -> DriftManifest | None:
        made = self.place.database.latest_artifact(TASK_NAME, "drift_report")
        if made is None:
            return None
        return self.place.lake.manifest(DriftManifest, DriftManifest.path_of(TASK_NAME, made.artifact_id))

    def _alarm(self) -> DriftManifest:
        self._step("the alarm", "looks follow the traffic")

        def alarmed() -> DriftManifest | None:
            report = self._report()
            return report if report is not None and report.status == "alarm" else None

        report = self._until(alarmed, "the alarm (sensor drift_rows)", 3 * SENSOR_S)
        self._say(
            f"{report.artifact_id}: {report.headline}; evidence {report.e_value:,.0f}, alarm at {report.limit:,.0f}"
        )
        return report

    def _experts(self, report: DriftManifest) -> None:
        self._step("experts", "the sensor drift_alarm opens a batch")
        batch_id = self._until(
            lambda: newest_batch(self.place.database, TASK_NAME), "a batch (sensor drift_alarm)", 2 * SENSOR_S
        )
        self._say(
            f"{batch_id}: simulated experts answer from held-back gold with {NOISE:.0%} noise; people would open "
            "the review page"
        )
        gold = {row.question: row.gold for part in self.place.rows for row in part}
        batch = read_batch(self.place.database, batch_id)
        if batch.is_open and not batch.is_complete:
            decided = answer_batch(self.place.database, self.place.task, batch_id, gold, lambda done, total: None)
            self._say(f"{decided} disagreements were decided by a third")
            batch = read_batch(self.place.database, batch_id)
        figures = figures_of(batch, 0.0)
        self._say(f"{len(batch.rows)} rows, {alpha_in_words(figures.alpha)}")

    def _second_adapter(self, first: str) -> str:
        self._step("the second adapter", "the sensor labels_ready starts the retraining")
        run = self._until(lambda: run_of(self.instance, f"{TASK_NAME}_retrain"), "the sensor labels_ready", SENSOR_S)
        follow(self.instance, run.run_id, RETRAIN_STAGES, self.services)
        self._step("canary", "both kinds of traffic, half of the sessions each")
        both = [row for pair in zip(self.place.rows.quiet, self.place.rows.shifted, strict=False) for row in pair]
        second = self._promoted("the second adapter", "rollout 2", both)
        if second == first:
            raise PermanentError("the retraining made the same adapter", "see the run in Dagster's UI")
        return second

    def _send(self, phase: str, rows: Sequence[Row]) -> list[Answer]:
        began = time.monotonic()
        answers = self.callers.send(phase, rows, lambda done, total: None)
        self._say(f"{phase}: {len(answers)} sentences answered in {duration(time.monotonic() - began)}")
        return answers

    def _expect_answered_by(self, answers: Sequence[Answer], adapter: str) -> None:
        others = {answer.adapter for answer in answers} - {adapter}
        if others:
            raise PermanentError(f"{adapter} was to answer, {', '.join(sorted(others))} did", "run the demo anew")

    def _until(self, look: Callable[[], Found | None], what: str, timeout_s: float) -> Found:
        return until(self.services, look, what, timeout_s, self._say)

    def _step(self, name: str, what: str) -> None:
        self.steps += 1
        clock = duration(time.monotonic() - self.began)
        self.out.print(Text.assemble((f"\n[{clock}] {self.steps}. {name}", "bold"), f": {what}"), soft_wrap=True)

    def _say(self, line: str) -> None:
        clock = duration(time.monotonic() - self.began)
        self.out.print(Text(f"[{clock}]    {line}", "dim"), soft_wrap=True)
