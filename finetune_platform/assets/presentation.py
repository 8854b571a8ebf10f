"""How an artifact looks in the Dagster UI: tables, plots and links made from its manifest.

Reports for people outside Dagster belong in `evaluation/`.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dagster import MetadataValue, TableColumn, TableRecord, TableSchema

from finetune_platform.lake import Lake
from finetune_platform.manifests import EvaluationManifest, FunnelStep, Manifest


def link(lake: Lake, path: str) -> MetadataValue:
    """A link to a file or folder of the lake."""
    url = lake.url_of(path)
    return MetadataValue.url(url if "://" in url else Path(url).absolute().as_uri())


def provenance(manifest: Manifest, lake: Lake) -> dict[str, MetadataValue]:
    """What every artifact shows: its id, its place and its parents' ids."""
    parents = {f"parent/{asset}": MetadataValue.text(parent) for asset, parent in manifest.parents.items()}
    return {"id": MetadataValue.text(manifest.artifact_id), "folder": link(lake, manifest.path), **parents}


def funnel_table(funnel: Sequence[FunnelStep]) -> MetadataValue:
    """Rows in and out of every step, with the reasons."""
    return table(
        ("step", "rows_in", "rows_out", "reasons"),
        [
            {
                "step": s.step,
                "rows_in": s.rows_in,
                "rows_out": s.rows_out,
                "reasons": ", ".join(f"{reason}: {n}" for reason, n in s.reasons.items()),
            }
            for s in funnel
        ],
    )


def funnel_plot(funnel: Sequence[FunnelStep]) -> MetadataValue:
    """Rows left after every step, as horizontal bars."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 0.6 + 0.35 * (len(funnel) + 1)))
    axes = figure.subplots()
    names = ["read", *(s.step for s in funnel)]
    rows = [funnel[0].rows_in, *(s.rows_out for s in funnel)]
    axes.barh(names[::-1], rows[::-1], color="#4f6bed")
    for place, count in enumerate(rows[::-1]):
        axes.text(count, place, f" {count:,}", va="center")
    axes.set_xlim(0, 1.15 * max([*rows, 1]))
    axes.set_xlabel("rows")
    return _image(figure, "rows left after each step")


def loss_plot(log: Sequence[Mapping[str, Any]]) -> MetadataValue:
    """Training and validation loss over optimizer steps.

    Args:
        log: Lines of `log.jsonl`: `step` and `loss`, or `validation_loss`.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3))
    axes = figure.subplots()
    for field, style in (("loss", "-"), ("validation_loss", "o--")):
        points = [(line["step"], line[field]) for line in log if line.get(field) is not None]
        if points:
            axes.plot(*zip(*points, strict=True), style, label=field.replace("_", " "), linewidth=1)
    axes.set_xlabel("step")
    axes.set_ylabel("loss (nats a token)")
    axes.legend(frameon=False)
    return _image(figure, "loss over steps")


def comparison_table(evaluation: EvaluationManifest) -> MetadataValue:
    """Every arm's metrics with their intervals."""
    metrics = list(dict.fromkeys(metric for values in evaluation.summary.values() for metric in values))
    rows: list[dict[str, Any]] = []
    for arm, values in evaluation.summary.items():
        cells = {m: f"{v['value']:.3f} [{v['lower']:.3f}, {v['upper']:.3f}]" for m, v in values.items()}
        rows.append({"arm": arm, **{m: cells.get(m, "") for m in metrics}})
    return table(("arm", *metrics), rows)


def table(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> MetadataValue:
    kinds = {c: "int" if rows and isinstance(rows[0][c], int) else "string" for c in columns}
    schema = TableSchema(columns=[TableColumn(c, kinds[c]) for c in columns])
    return MetadataValue.table([TableRecord(dict(row)) for row in rows], schema=schema)


def _image(figure: Any, title: str) -> MetadataValue:
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=90, bbox_inches="tight")
    return MetadataValue.md(f"![{title}](data:image/png;base64,{base64.b64encode(data.getvalue()).decode()})")
