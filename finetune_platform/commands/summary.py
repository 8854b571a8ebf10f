"""The last screen of a chain: verdict, comparison, gates, where things are, what to run next."""

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from finetune_platform.commands.installation import open_lake, read_settings
from finetune_platform.manifests import AdapterManifest, EvaluationManifest, GateResult
from finetune_platform.registry.mlflow_versions import without_password
from finetune_platform.registry.register import NEW_ARM
from finetune_platform.task import Task

STYLES = {"pass": "green", "fail": "red", "inconclusive": "yellow", "skipped": "dim"}
ARM_TITLES = {
    NEW_ARM: "new adapter",
    "champion": "champion",
    "prompted": "base, long prompt",
    "few_shot": "base, few examples",
    "trivial": "trivial answer",
}


def render_result(task: Task, evaluation: EvaluationManifest, adapter: AdapterManifest | None) -> RenderableType:
    """What a person sees at the end of a run.

    Args:
        adapter: None where gates kept it out of the registry.
    """
    verdict = Text.assemble((f" {evaluation.verdict} ", f"reverse {STYLES[evaluation.verdict]}"), " ")
    verdict.append(evaluation.headline, "bold")
    parts: list[RenderableType] = [Text(), verdict, Text(), comparison(evaluation), Text(), gates(evaluation.gates)]
    return Group(*parts, Text(), *_places(evaluation, adapter), Text(), *_next(task, adapter))


def comparison(evaluation: EvaluationManifest) -> Table:
    """Arms by metrics, each value with its interval."""
    metrics = list(dict.fromkeys(metric for arm in evaluation.summary.values() for metric in arm))
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("arm")
    for metric in metrics:
        table.add_column(metric, justify="right")
    for arm, values in evaluation.summary.items():
        cells = [_interval(values[m]) if m in values else "" for m in metrics]
        table.add_row(ARM_TITLES.get(arm, arm), *cells, style="bold" if arm == NEW_ARM else "")
    return table


def gates(results: list[GateResult]) -> Table:
    """One line a gate."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in ("gate", "verdict", "tier", "why"):
        table.add_column(column)
    for gate in results:
        verdict = Text(gate.verdict, STYLES[gate.verdict])
        table.add_row(Text(gate.name), verdict, gate.tier, Text(gate.reason))
    return table


def _places(evaluation: EvaluationManifest, adapter: AdapterManifest | None) -> list[RenderableType]:
    lake = open_lake()
    rows = [("report", lake.url_of(f"{evaluation.path}/report.html"))]
    if adapter is not None:
        mlflow = without_password(read_settings().mlflow_tracking_uri)
        rows = [("adapter", adapter.artifact_id), ("bundle", lake.url_of(adapter.path)), *rows]
        rows.append(("MLflow", f"model {adapter.mlflow_model} at {mlflow}"))
    # No table: inside one a wrapped URL cannot be clicked or copied.
    return [Text.assemble((f"{name:<8}", "bold"), place) for name, place in rows]


def _next(task: Task, adapter: AdapterManifest | None) -> list[RenderableType]:
    if adapter is None:
        commands = [("finetune status " + task.name, "what is in place, and what is not")]
    else:
        commands = [
            (f"finetune lineage {adapter.artifact_id}", "adapter back to evaluation, run, dataset and rows"),
            ("finetune up", "Dagster and MLflow in the browser: the lineage graph, the curves"),
            (f"finetune status {task.name}", "what is in place, who is champion"),
            ("finetune init my_task", "your own task"),
        ]
    table = Table.grid(padding=(0, 3, 0, 0))
    for command, meaning in commands:
        table.add_row(Text(command, "cyan"), Text(meaning, "dim"))
    return [Text("next", "bold"), Padding(table, (0, 0, 0, 2))]


def _interval(values: dict[str, float]) -> str:
    return f"{values['value']:.3f} [{values['lower']:.3f}, {values['upper']:.3f}]"
