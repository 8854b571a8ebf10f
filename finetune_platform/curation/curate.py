"""Raw rows to a versioned dataset: each step in its order, the funnel, the splits, the manifest.

What a step does belongs in its own file; reading sources in `collect.py`; checks of the outcome in
`expectations.py`.
"""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from finetune_platform.curation.collect import CURATION_VERSION
from finetune_platform.curation.contradictions import drop_contradictions
from finetune_platform.curation.empty import drop_empty
from finetune_platform.curation.exact_duplicates import drop_exact_duplicates
from finetune_platform.curation.groups import assign_groups
from finetune_platform.curation.length import CountTokens, drop_long
from finetune_platform.curation.sifting import Sifted, with_places
from finetune_platform.curation.split import assign_splits
from finetune_platform.curation.superseded import drop_superseded
from finetune_platform.errors import BadInput
from finetune_platform.identity import content_id, file_sha256
from finetune_platform.lake import Lake
from finetune_platform.manifests import MANIFEST_NAME, DatasetManifest, FunnelStep, RawManifest, SplitRecord
from finetune_platform.progress import Report
from finetune_platform.rows import EXAMPLE_SCHEMA, KINDS, REJECTED_SCHEMA, SPLITS, Split
from finetune_platform.storage_errors import disk_failures
from finetune_platform.task import Task

if TYPE_CHECKING:
    from daft import DataFrame


def curate(
    task: Task, raw: RawManifest, lake: Lake, count_tokens: CountTokens, base_model_name: str, report: Report
) -> DatasetManifest:
    """Sifts, groups and splits the rows of `raw` and publishes `{task}/datasets/{id}/` in the lake.

    The id is a hash of which rows stand in which split, with their strata and groups, and of the settings that
    decide it: the same rows give the same dataset, wherever they were read from, and nothing is written twice.

    Args:
        task: Its `curation` and `system_prompt` are used.
        raw: What `collect` published.
        lake: Where both live.
        count_tokens: Tokens of each chat as the base model sees it.
        base_model_name: Whose tokens they are; part of the id.
        report: Hears one line a step.

    Returns:
        The manifest; that of the earlier run where the dataset is already there.

    Raises:
        BadInput: Fewer than `curation.min_rows` rows of kind `sft` are left, which evaluation and serving's examples
            need whatever else a task learns from; or a split has none of them, or train none of another kind that the
            sources have. Nothing has been written then.
    """
    rows = with_places(lake.dataframe(f"{raw.path}/examples.parquet"))
    rejected = [lake.dataframe(f"{raw.path}/rejected.parquet").to_arrow().cast(REJECTED_SCHEMA)]
    funnel = list(raw.funnel)

    def keep(step: str, sifted: Sifted) -> "DataFrame":
        refused = sifted.rejected.sort("position").to_arrow()
        rejected.append(refused.select(REJECTED_SCHEMA.names).cast(REJECTED_SCHEMA))
        funnel.append(_funnel_step(step, sifted, refused))
        report(f"{step}: {funnel[-1].rows_out:,} of {funnel[-1].rows_in:,} rows kept")
        return sifted.kept

    rows = keep("empty", drop_empty(rows))
    # Before the tokens are counted, which costs most.
    if raw.labels:
        rows = keep("superseded", drop_superseded(rows))
    rows = keep("exact_duplicates", drop_exact_duplicates(rows))
    rows = keep("contradictions", drop_contradictions(rows))
    rows = keep("length", drop_long(rows, task.curation.max_tokens, task.system_prompt, count_tokens, report))
    _check_enough(task, rows.where(rows["kind"] == "sft").count_rows(), funnel)
    shares = task.curation.validation_share, task.curation.test_share
    whole = assign_splits(assign_groups(rows), *shares, task.curation.seed).sort("position").to_arrow()
    _check_splits(task, whole, funnel, report)

    dataset_id = _dataset_id(task, whole, base_model_name)
    path = f"{task.name}/datasets/{dataset_id}"
    if not lake.is_published(path):
        with tempfile.TemporaryDirectory(prefix="curated_dataset-") as temp:
            folder = Path(temp)
            manifest = DatasetManifest(
                artifact_id=dataset_id,
                task=task.name,
                parents={"raw_examples": raw.artifact_id},
                code_version=CURATION_VERSION,
                splits=_write(folder, whole, pa.concat_tables(rejected)),
                rejected=sum(table.num_rows for table in rejected),
                funnel=funnel,
                strata=_strata(whole),
                tokens=_token_statistics(whole),
                base_model=base_model_name,
            )
            (folder / MANIFEST_NAME).write_bytes(manifest.to_bytes())
            lake.publish(folder, path)
    return lake.manifest(DatasetManifest, path)


def _funnel_step(step: str, sifted: Sifted, refused: pa.Table) -> FunnelStep:
    kept = sifted.kept.count_rows()
    counts = sorted((pair["values"], pair["counts"]) for pair in refused["reason"].value_counts().to_pylist())
    return FunnelStep(step=step, rows_in=kept + refused.num_rows, rows_out=kept, reasons=dict(counts))


def _check_enough(task: Task, answered: int, funnel: list[FunnelStep]) -> None:
    if answered < task.curation.min_rows:
        others = funnel[-1].rows_out - answered
        kind = f" of kind sft, beside {others:,} of other kinds" if others else ""
        raise BadInput(
            f"{_place(task)}: curation.min_rows is {task.curation.min_rows}, but {answered} rows{kind} are left "
            f"({_told(funnel)})",
            "add rows to the sources, see why rows were set aside, or lower curation.min_rows",
        )


def _check_splits(task: Task, whole: pa.Table, funnel: list[FunnelStep], report: Report) -> None:
    for kind in KINDS:
        rows = whole.filter(pa.compute.equal(whole["kind"], kind))
        present = set(rows["split"].unique().to_pylist())
        needed: tuple[Split, ...] = SPLITS if kind == "sft" else ("train",)
        missing = [split for split in needed if split not in present]
        if rows and missing:
            groups = len(rows["group_id"].unique())
            lacking = "is empty" if kind == "sft" else f"has no row of kind {kind}"
            raise BadInput(
                f"{_place(task)}: the {missing[0]} split {lacking}: {rows.num_rows} rows in {groups} groups are left "
                f"({_told(funnel)})",
                "add rows of other prompts, or raise curation.validation_share and curation.test_share, or change "
                "curation.seed"
                if kind == "sft"
                else f"add rows of kind {kind}, or change curation.seed",
            )
        if rows and "validation" not in present:
            report(f"no row of kind {kind} is in validation: a stage that learns from them has no validation loss")


def _place(task: Task) -> str:
    return f"{task.path or task.name}"


def _told(funnel: list[FunnelStep]) -> str:
    """The funnel in one line: `9 rows read; parse 7, empty 6, …`."""
    return f"{funnel[0].rows_in:,} rows read; left after " + ", ".join(f"{s.step} {s.rows_out:,}" for s in funnel)


def _dataset_id(task: Task, whole: pa.Table, base_model_name: str) -> str:
    columns = ("split", "example_id", "task_type", "difficulty", "group_id")
    rows = sorted(zip(*(whole[name].to_pylist() for name in columns), strict=True))
    settings = task.curation.model_dump(include={"max_tokens", "validation_share", "test_share", "seed"})
    content = {"rows": rows, "settings": settings, "system_prompt": task.system_prompt, "base_model": base_model_name}
    return content_id("ds", content)


def _write(folder: Path, whole: pa.Table, rejected: pa.Table) -> dict[Split, SplitRecord]:
    """The four Parquet files, and what the manifest says of the splits."""
    records: dict[Split, SplitRecord] = {}
    for split in SPLITS:
        rows = whole.filter(pa.compute.equal(whole["split"], split)).select(EXAMPLE_SCHEMA.names)
        file = folder / f"{split}.parquet"
        with disk_failures(file):
            pq.write_table(rows.cast(EXAMPLE_SCHEMA), file, compression="zstd")
        groups = len(rows["group_id"].unique())
        kinds = {pair["values"]: pair["counts"] for pair in rows["kind"].value_counts().to_pylist()}
        records[split] = SplitRecord(
            rows=rows.num_rows,
            groups=groups,
            sha256=file_sha256(file),
            kinds={kind: kinds[kind] for kind in KINDS if kind in kinds},
        )
    with disk_failures(folder):
        pq.write_table(rejected, folder / "rejected.parquet", compression="zstd")
    return records


def _strata(whole: pa.Table) -> dict[str, dict[str, int]]:
    """Rows of kind `sft` of each stratum in each split, by the names that gates use for slices: `task_type=…`."""
    strata: dict[str, dict[str, int]] = {}
    whole = whole.filter(pa.compute.equal(whole["kind"], "sft"))
    for field in ("task_type", "difficulty"):
        counted = whole.group_by([field, "split"]).aggregate([([], "count_all")]).to_pylist()
        for row in sorted(counted, key=lambda row: (row[field], row["split"])):
            if row[field]:
                by_split = strata.setdefault(f"{field}={row[field]}", dict.fromkeys(SPLITS, 0))
                by_split[row["split"]] = row["count_all"]
    return strata


def _token_statistics(whole: pa.Table) -> dict[str, float]:
    """Of conversations; `text` is the total of all texts, where there are some: they are cut to any length."""
    of_text = pa.compute.equal(whole["kind"], "text")
    texts, whole = whole.filter(of_text), whole.filter(pa.compute.invert(of_text))
    text = {"text": pa.compute.sum(texts["tokens"]).as_py()} if texts else {}
    p50, p95 = pa.compute.quantile(whole["tokens"], q=[0.5, 0.95]).to_pylist()
    total, longest = pa.compute.sum(whole["tokens"]).as_py(), pa.compute.max(whole["tokens"]).as_py()
    return {"p50": p50, "p95": p95, "max": longest, "total": total, **text}
