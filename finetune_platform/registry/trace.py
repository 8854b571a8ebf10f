"""Forwards: from one row to every dataset it entered, the split or the reason it did not, and the adapters it touched.

The way back belongs in `lineage.py`. A row is found by its content (`example_id`) and by its place, so that rows
whose content changed on the way, or that a duplicate replaced, are found as well.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from finetune_platform.database import Artifact, Database
from finetune_platform.errors import BadInput
from finetune_platform.lake import Lake
from finetune_platform.manifests import Record
from finetune_platform.manifests_training import TrainingManifest
from finetune_platform.registry.artifacts import artifact_path, recorded
from finetune_platform.registry.label_walk import LabelFound, labels_at, labels_of_interaction
from finetune_platform.registry.promotions import PromotionRecord, history
from finetune_platform.rows import SPLITS, Kind

if TYPE_CHECKING:
    import daft

PLACE_COLUMNS = ("source_uri", "source_row")


class Fate(Record):
    """What became of the row at one place: `split` it went to, or the `reason` a step refused it for."""

    source_uri: str
    source_row: int
    example_id: str | None = None
    kind: Kind | None = None
    split: str | None = None
    stage: str | None = None
    reason: str | None = None
    detail: str | None = None


class RawAppearance(Record):
    """A reading of the sources in which the row was found."""

    task: str
    raw_id: str
    fates: list[Fate]


class AdapterUse(Record):
    """`heirs` are runs that began at its weights: what it has learned they have too, whatever their own data."""

    adapter_id: str
    aliases: list[PromotionRecord]
    heirs: "list[TrainingUse]" = []


class TrainingUse(Record):
    """`kinds` are those of the rows it read, and null where its files are gone."""

    training_id: str
    kinds: list[Kind] | None = None
    adapters: list[AdapterUse]

    @property
    def descendants(self) -> Iterator[AdapterUse]:
        """Every adapter that holds what this run has learned."""
        for adapter in self.adapters:
            yield adapter
            for heir in adapter.heirs:
                yield from heir.descendants


class DatasetAppearance(Record):
    """A dataset that the row reached. Only rows of `train`, of the kinds that a run read, taught it something."""

    task: str
    dataset_id: str
    fates: list[Fate]
    training_runs: list[TrainingUse]

    def taught(self, run: TrainingUse) -> bool:
        """Whether `run` has read the row, there or elsewhere in the dataset."""
        return any(f.split == "train" and (run.kinds is None or f.kind in run.kinds) for f in self.fates)


class Trace(Record):
    """Where a row went. `labels` are those that gave it, or that an interaction became."""

    row: str
    labels: list[LabelFound] = []
    raw: list[RawAppearance]
    datasets: list[DatasetAppearance]


def trace(row: str, lake: Lake, database: Database) -> Trace:
    """Follows a row forward.

    Args:
        row: `ex-…`, or `URI:ROW` as errors and reports print it (of the URI its end is enough), or `in-…`, an
            interaction: then every row that its labels gave.

    Raises:
        BadInput: Not of that form, or no recorded artifact holds such a row, or no label comes of the interaction.
    """
    every = recorded(database)
    if row.startswith("in-"):
        return _trace_interaction(row, every, lake, database)
    uri, number = _place(row)
    labels = [label for task in _tasks(every) if uri for label in labels_at(lake, task, uri, number)]
    raw = [r for a in every if a.asset == "raw_examples" and (r := _raw(a, row, uri, number, lake))]
    if not raw:
        raise BadInput(
            f"{row}: no recorded reading of the sources holds this row",
            "give ex-… or FILE:ROW as in a report's table; `finetune lineage ADAPTER --rows` lists them",
        )
    datasets = [d for a in every if a.asset == "curated_dataset" and (d := _dataset(a, raw, every, lake, database))]
    return Trace(row=row, labels=labels, raw=raw, datasets=datasets)


def _trace_interaction(interaction_id: str, every: list[Artifact], lake: Lake, database: Database) -> Trace:
    labels = [label for task in _tasks(every) for label in labels_of_interaction(lake, task, interaction_id)]
    if not labels:
        raise BadInput(
            f"{interaction_id}: no label comes of this interaction",
            "it was not chosen for experts, its batch is open, or nobody corrected it",
        )
    raw: list[RawAppearance] = []
    for uri, _, number in (label.place.rpartition(":") for label in labels):
        raw += [r for a in every if a.asset == "raw_examples" and (r := _raw(a, "", uri, int(number), lake))]
    datasets = [d for a in every if a.asset == "curated_dataset" and (d := _dataset(a, raw, every, lake, database))]
    return Trace(row=interaction_id, labels=labels, raw=raw, datasets=datasets)


def _tasks(every: list[Artifact]) -> list[str]:
    return sorted({artifact.task for artifact in every})


def _place(row: str) -> tuple[str | None, int]:
    """URI and row number of a place, (None, 0) for an example id."""
    if row.startswith("ex-") and ":" not in row:
        return None, 0
    uri, _, number = row.rpartition(":")
    if not uri or not number.isdecimal():
        raise BadInput(f"{row}: neither an example id nor a place", "give ex-… or FILE:ROW, such as rows.jsonl:118")
    return uri, int(number)


def _raw(artifact: Artifact, row: str, uri: str | None, number: int, lake: Lake) -> RawAppearance | None:
    import daft

    folder = artifact_path("raw_examples", artifact.task, artifact.artifact_id)
    if uri is None:
        wanted = daft.col("example_id") == row
        fates = _accepted(lake.dataframe(f"{folder}/examples.parquet"), wanted)
    else:
        ends = (daft.col("source_uri") == uri) | daft.functions.endswith(daft.col("source_uri"), f"/{uri}")
        wanted = ends & (daft.col("source_row") == number)
        fates = _accepted(lake.dataframe(f"{folder}/examples.parquet"), wanted)
        fates += _refused(lake.dataframe(f"{folder}/rejected.parquet"), wanted)
    return RawAppearance(task=artifact.task, raw_id=artifact.artifact_id, fates=fates) if fates else None


def _dataset(
    artifact: Artifact, raw: list[RawAppearance], every: list[Artifact], lake: Lake, database: Database
) -> DatasetAppearance | None:
    read = [appearance for appearance in raw if appearance.task == artifact.task]
    ids = sorted({fate.example_id for appearance in read for fate in appearance.fates if fate.example_id})
    # A place means a row only together with the reading it was made from: files change. Content is what it is.
    raw_id = artifact.parents.get("raw_examples")
    places = [fate for appearance in read if appearance.raw_id == raw_id for fate in appearance.fates]
    folder = artifact_path("curated_dataset", artifact.task, artifact.artifact_id)
    fates = []
    for split in SPLITS:
        frame = lake.dataframe(f"{folder}/{split}.parquet")
        fates += _accepted(frame, _any_of(places) | _is_in("example_id", ids), split)
    fates += _refused(lake.dataframe(f"{folder}/rejected.parquet"), _any_of(places))
    if not fates:
        return None
    runs = [_training(a, every, lake, database) for a in _children(artifact, "trained_adapter", every)]
    return DatasetAppearance(task=artifact.task, dataset_id=artifact.artifact_id, fates=fates, training_runs=runs)


def _training(training: Artifact, every: list[Artifact], lake: Lake, database: Database) -> TrainingUse:
    adapters = [_adapter(a, every, lake, database) for a in _children(training, "registered_adapter", every)]
    path = artifact_path("trained_adapter", training.task, training.artifact_id)
    kinds = lake.manifest(TrainingManifest, path).kinds if lake.is_published(path) else None
    return TrainingUse(training_id=training.artifact_id, kinds=kinds, adapters=adapters)


def _adapter(adapter: Artifact, every: list[Artifact], lake: Lake, database: Database) -> AdapterUse:
    heirs = _children(adapter, "trained_adapter", every, "warm_start")
    return AdapterUse(
        adapter_id=adapter.artifact_id,
        aliases=history(database, adapter.task, adapter.artifact_id),
        heirs=[_training(heir, every, lake, database) for heir in heirs],
    )


def _children(parent: Artifact, asset: str, every: list[Artifact], named: str = "") -> list[Artifact]:
    """Artifacts of an asset that have this parent, under its asset's name or another."""
    found = (a for a in every if a.asset == asset and a.task == parent.task)
    return [a for a in found if a.parents.get(named or parent.asset) == parent.artifact_id]


def _accepted(frame: "daft.DataFrame", wanted: "daft.Expression", split: str | None = None) -> list[Fate]:
    columns = ("example_id", "kind", *PLACE_COLUMNS)
    return [Fate(split=split, **row) for row in _rows(frame, wanted, columns)]


def _refused(frame: "daft.DataFrame", wanted: "daft.Expression") -> list[Fate]:
    columns = (*PLACE_COLUMNS, "stage", "reason", "detail")
    return [Fate(**row) for row in _rows(frame, wanted, columns)]


def _rows(frame: "daft.DataFrame", wanted: "daft.Expression", columns: tuple[str, ...]) -> list[dict[str, Any]]:
    return list(frame.where(wanted).select(*columns).iter_rows())


def _any_of(fates: list[Fate]) -> "daft.Expression":
    """Rows at one of these places."""
    import daft

    expression = daft.lit(False)
    for uri, number in sorted({(fate.source_uri, fate.source_row) for fate in fates}):
        expression = expression | ((daft.col("source_uri") == uri) & (daft.col("source_row") == number))
    return expression


def _is_in(column: str, values: list[str]) -> "daft.Expression":
    import daft

    return daft.col(column).is_in(values) if values else daft.lit(False)
