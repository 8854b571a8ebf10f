"""`review_batch`: rows of the traffic for experts, after an alarm or by hand."""

import json
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from dagster import (
    AssetExecutionContext,
    AssetIn,
    AssetKey,
    AssetsDefinition,
    Config,
    DataVersion,
    MaterializeResult,
    ResourceParam,
    asset,
)

from finetune_platform.announcements import Event, announce, gateway_page
from finetune_platform.assets.presentation import provenance
from finetune_platform.database import Database
from finetune_platform.errors import BadInput
from finetune_platform.labeling.batches import batch_of_cause
from finetune_platform.lake import Lake
from finetune_platform.manifests import BatchManifest, DatasetManifest
from finetune_platform.manifests_drift import DriftManifest
from finetune_platform.resources.failures import user_failures
from finetune_platform.resources.workbench import Workbench
from finetune_platform.rows import Message, Split
from finetune_platform.task import Task

if TYPE_CHECKING:
    from finetune_platform.drift.monitor import Embeds
    from finetune_platform.drift.rows import TrafficRow
    from finetune_platform.labeling.choosing import Candidate
    from finetune_platform.labeling.composing import Gold
    from finetune_platform.labeling.spread import Vectors

ASSET = "review_batch"
CODE_VERSION = "1"
MOST_CANDIDATES = MOST_KNOWN = 5000


class ReviewBatchConfig(Config):
    """`cause` says what asks for the batch; the same cause opens one. Empty: the report's alarm, else this run."""

    cause: str = ""


def review_batch(task: Task) -> AssetsDefinition:
    """The asset for one task."""
    key = AssetKey([task.name, ASSET])

    @asset(
        key=key,
        ins={"report": AssetIn(AssetKey([task.name, "drift_report"]))},
        deps=[AssetKey([task.name, "interactions"])],
        group_name="relabel",
        kinds={"python"},
        owners=task.owners,
        description="Rows for experts: a random sample that measures, hard rows, and the most novel ones.",
        code_version=CODE_VERSION,
    )
    def build(
        context: AssetExecutionContext,
        config: ReviewBatchConfig,
        lake: ResourceParam[Lake],
        database: ResourceParam[Database],
        workbench: Workbench,
        report: DriftManifest,
    ) -> MaterializeResult[BatchManifest]:
        with user_failures():
            batch = _batch(task, report, config.cause, context.run_id, lake, database, workbench, context.log.info)
            _announce(database, batch)
        return MaterializeResult(
            asset_key=key,
            value=batch,
            data_version=DataVersion(batch.artifact_id),
            metadata={
                **provenance(batch, lake),
                "cause": batch.cause,
                "reason": batch.reason,
                "dagster/row_count": batch.rows,
                "chosen": ", ".join(f"{count:,} {selection}" for selection, count in batch.chosen.items()),
                "candidates": batch.candidates,
            },
        )

    return build


def _announce(database: Database, batch: BatchManifest) -> None:
    event = Event(
        kind="batch_waiting",
        task=batch.task,
        subject=batch.artifact_id,
        what=f"{batch.rows:,} rows wait for experts: {batch.reason}",
        link=gateway_page("review/"),
        next_step="answer them on the review page",
    )
    announce(database, event)


def _batch(
    task: Task,
    report: DriftManifest,
    asked_by: str,
    run_id: str,
    lake: Lake,
    database: Database,
    workbench: Workbench,
    say: Any,
) -> BatchManifest:
    from finetune_platform.labeling.publication import publish_batch

    cause = asked_by or (report.alarm if report.status == "alarm" else f"run {run_id}")
    known = batch_of_cause(database, task.name, cause)
    if known is not None and lake.is_published(path := BatchManifest.path_of(task.name, known)):
        say(f"{cause} has had its batch: {known}")
        return lake.manifest(BatchManifest, path)
    candidates, since = _candidates(task, report, lake, database, workbench, say)
    if not candidates:
        raise BadInput(
            f"{task.name}: the log holds no answered question to choose from",
            "see serving.log_share and whether a gateway answers for this task",
        )
    return publish_batch(
        task.name,
        task.labeling,
        candidates,
        # Their answers are known, and no adapter has learned them.
        list(_rows_of(task, lake, database, "test")),
        cause=cause,
        reason=report.headline,
        parents={"drift_report": report.artifact_id},
        since=since,
        until=datetime.fromisoformat(report.until),
        redact=task.serving.redact,
        lake=lake,
        database=database,
    )


def _candidates(
    task: Task, report: DriftManifest, lake: Lake, database: Database, workbench: Workbench, say: Any
) -> tuple[list["Candidate"], datetime]:
    """Answered rows since the evidence began to grow, with how unlike the reference each is."""
    from finetune_platform.assets.drift_report import traffic_of
    from finetune_platform.drift.channels import novelty
    from finetune_platform.drift.explanation import growth_began
    from finetune_platform.drift.kept_reference import read_reference
    from finetune_platform.drift.sample import sampled
    from finetune_platform.drift.state import ticks_of
    from finetune_platform.labeling.choosing import Candidate
    from finetune_platform.serving.answered_sample import asked_of

    traffic = traffic_of(task, lake, database, workbench)
    reference_id = report.parents.get("drift_reference")
    ticks = ticks_of(database, task.name, reference_id) if reference_id else []
    since = growth_began(ticks).since if ticks else datetime.fromisoformat(report.since)
    sample = sampled(traffic.read(since, datetime.fromisoformat(report.until)), MOST_CANDIDATES, 0)
    rows = [row for row in sample.rows if row.question and row.answer is not None]
    if not rows:
        return [], since
    say(f"{len(rows):,} of {sample.logged:,} rows since {since:%Y-%m-%d %H:%M} UTC come into question")
    embedder = traffic.load_embedder()
    vectors = embedder.embed([row.question for row in rows])
    known = read_reference(lake, task.name, reference_id) if reference_id else None
    # Novel is what an alarm is about: where only answers have become worse, nothing is.
    scores = novelty(vectors, known.vectors) if known and reference_id in report.alarms else None
    hardness = _hardness(rows, vectors, list(_rows_of(task, lake, database, "train")), embedder, say)
    asked = asked_of(lake, task.name, {row.interaction_id for row in rows})
    return [
        Candidate(
            interaction_id=row.interaction_id,
            messages=_prompt(asked[row.interaction_id].messages),
            suggestion=row.answer,
            adapter_id=row.adapter_id,
            question=row.question,
            vector=vectors[i],
            session=row.session,
            novelty=None if scores is None else float(scores[i]),
            hardness=hardness[i],
        )
        for i, row in enumerate(rows)
        if row.interaction_id in asked
    ], since


def _hardness(
    rows: Sequence["TrafficRow"], vectors: "Vectors", known: Sequence["Gold"], embedder: "Embeds", say: Any
) -> list[float | None]:
    """What can be told of how likely each answer is wrong; None where nothing can.

    That the task's nearest training rows have another answer, and above all that it has not the task's format, or is a
    refusal.
    """
    from random import Random

    from finetune_platform.labeling.hardness import doubts
    from finetune_platform.retrieval.prompt import question_of

    if not known:
        return [_flaws(row) if row.format_valid is not None or row.refused else None for row in rows]
    some = Random(0).sample(known, min(len(known), MOST_KNOWN))
    say(f"answers are compared with those of {len(some):,} training rows")
    nearest = embedder.embed([question_of([message.plain() for message in row.messages]) for row in some])
    doubt = doubts(vectors, [row.answer for row in rows], nearest, [row.answer for row in some])
    return [float(doubt[i]) + _flaws(row) for i, row in enumerate(rows)]


def _flaws(row: "TrafficRow") -> float:
    return float(row.format_valid is False) + float(row.refused)


def _prompt(messages: tuple[dict[str, Any], ...]) -> tuple[Message, ...]:
    return tuple(Message.model_validate(message) for message in messages if message["role"] != "system")


def _rows_of(task: Task, lake: Lake, database: Database, split: Split) -> Iterator["Gold"]:
    """Rows of the newest dataset, whose answers are known; none where there is no dataset."""
    from daft import col

    from finetune_platform.labeling.composing import Gold

    latest = database.latest_artifact(task.name, "curated_dataset")
    if latest is None:
        return
    path = DatasetManifest.path_of(task.name, latest.artifact_id)
    known = lake.dataframe(f"{path}/{split}.parquet").where(col("kind") == "sft")
    for row in known.select("messages", "answer").iter_rows():
        yield Gold(_prompt(tuple(json.loads(row["messages"])[:-1])), row["answer"])
