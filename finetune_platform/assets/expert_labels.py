"""`expert_labels`: what people decided, as the set of labels that the next dataset is made with."""

from typing import Any

from dagster import (
    AssetExecutionContext,
    AssetKey,
    AssetsDefinition,
    Config,
    DataVersion,
    MaterializeResult,
    ResourceParam,
    asset,
)

from finetune_platform.assets.presentation import provenance, table
from finetune_platform.database import Database
from finetune_platform.errors import BadInput
from finetune_platform.labeling.batches import Batch, batches_of, close_batch, read_batch
from finetune_platform.labeling.figures import Figures, figures_of
from finetune_platform.labeling.labels import (
    Correction,
    keep_expert_labels,
    keep_production_labels,
    publish_label_set,
)
from finetune_platform.labeling.readiness import alpha_in_words, readiness_of
from finetune_platform.lake import Lake
from finetune_platform.manifests import LabelsManifest
from finetune_platform.resources.failures import user_failures
from finetune_platform.rows import Message
from finetune_platform.serving.feedback_sample import said_of_answers
from finetune_platform.task import Task

ASSET = "expert_labels"
CODE_VERSION = "1"


class ExpertLabelsConfig(Config):
    """`cause` says what started the run; `accept_agreement` takes batches in which people agree too little."""

    cause: str = ""
    accept_agreement: bool = False


def expert_labels(task: Task) -> AssetsDefinition:
    """The asset for one task."""
    key = AssetKey([task.name, ASSET])

    @asset(
        key=key,
        deps=[AssetKey([task.name, "review_batch"])],
        group_name="relabel",
        kinds={"python", "deltalake"},
        owners=task.owners,
        description="Decided rows of every complete batch, and users' corrections: one label a prompt, the best.",
        code_version=CODE_VERSION,
    )
    def build(
        context: AssetExecutionContext,
        config: ExpertLabelsConfig,
        lake: ResourceParam[Lake],
        database: ResourceParam[Database],
    ) -> MaterializeResult[LabelsManifest]:
        with user_failures():
            newest = _close_what_is_ready(task, lake, database, config.accept_agreement, context.log.info)
            added = keep_production_labels(lake, task.name, _corrections(task, lake), _trust(task))
            context.log.info(f"{added:,} new labels from what users said")
            figures = figures_of(newest, task.cost.label) if newest else None
            labels = publish_label_set(lake, task.name, task.labeling.min_trust, newest, figures)
            if not labels.rows:
                raise BadInput(
                    f"{task.name}: there is no label yet", "answer the rows of a batch on the review page first"
                )
        return MaterializeResult(
            asset_key=key,
            value=labels,
            data_version=DataVersion(labels.artifact_id),
            metadata={**provenance(labels, lake), "cause": config.cause or "by hand", **_metadata(labels, figures)},
        )

    return build


def _close_what_is_ready(task: Task, lake: Lake, database: Database, accept: bool, report: Any) -> Batch | None:
    """Closes complete batches and writes their labels; the newest closed one."""
    newest = None
    for batch_id in batches_of(database, task.name):
        batch = read_batch(database, batch_id)
        if batch.is_open:
            ready = readiness_of(batch, figures_of(batch, task.cost.label), task.labeling.min_agreement)
            report(f"{batch_id}: {ready.state}, {ready.reason}")
            if ready.state != "ready" and not (accept and ready.state == "low_agreement"):
                continue
            batch = close_batch(database, batch_id)
        report(f"{batch_id}: {keep_expert_labels(lake, batch):,} labels")
        newest = batch
    return newest


def _corrections(task: Task, lake: Lake) -> list[Correction]:
    return [
        Correction(
            interaction_id=said.interaction_id,
            messages=tuple(Message.model_validate(m) for m in said.messages if m["role"] != "system"),
            answered=said.answered,
            answer=said.answer,
            label_from=said.kind,
            adapter_id=said.adapter_id,
            said_by=said.said_by,
            said_at=said.said_at,
        )
        for said in said_of_answers(lake, task.name)
    ]


def _trust(task: Task) -> dict[Any, float]:
    return {"correction": task.labeling.correction_trust, "accepted": task.labeling.accepted_trust}


def _metadata(labels: LabelsManifest, figures: Figures | None) -> dict[str, Any]:
    told: dict[str, Any] = {
        "dagster/row_count": labels.rows,
        "labels by source": ", ".join(f"{kind} {count:,}" for kind, count in labels.by_source.items()),
        "overruled by a better label": labels.replaced,
        "below the task's trust": labels.distrusted,
        "batches": ", ".join(labels.batches),
    }
    if figures is not None:
        told |= {
            "agreement": alpha_in_words(figures.alpha),
            "hours": round(figures.hours, 2),
            "cost": round(figures.cost, 2),
            "people": table(
                ("reviewer", "answered", "gold", "overruled", "seconds"),
                [
                    {
                        "reviewer": p.reviewer,
                        "answered": p.answered,
                        "gold": f"{p.gold_right} of {p.gold_answered}",
                        "overruled": p.overruled,
                        "seconds": "" if p.seconds is None else f"{p.seconds:.0f}",
                    }
                    for p in figures.people
                ],
            ),
            "confused": table(
                ("one", "other", "times"),
                [{"one": c.one, "other": c.other, "times": c.times} for c in figures.confusions],
            ),
        }
    return told
