"""`finetune lineage`: the way back from an adapter, as a tree."""

from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from finetune_platform.commands.installation import open_database, open_lake
from finetune_platform.commands.terminal import console, plain, print_json
from finetune_platform.registry.lineage import ROW_COLUMNS, Lineage, LineageStep, lineage, lineage_rows


def show_lineage(name: str, rows: bool, as_json: bool) -> None:
    """Shows where an artifact (or a task's champion) comes from."""
    lake = open_lake()
    found = lineage(name, lake, open_database())
    if as_json:
        listed = {"rows": list(lineage_rows(found, lake))} if rows else {}
        print_json({**plain(found), **listed})
        return
    out = console()
    out.print(render_lineage(found))
    if rows:
        out.print()
        # Rows are printed as they come: a table would hold a million of them to measure its columns.
        out.print("\t".join(ROW_COLUMNS), style="bold", markup=False, soft_wrap=True)
        for row in lineage_rows(found, lake):
            out.print("\t".join(str(row[column]) for column in ROW_COLUMNS), markup=False, soft_wrap=True)


def render_lineage(found: Lineage) -> Tree:
    """The tree, from the artifact down to its source files."""
    tree = Tree(Text(found.task, "bold"))
    node = tree
    for step in found.steps:
        node = node.add(_step(step))
        if step is found.steps[0]:
            for change in found.aliases:
                was = f", before {change.previous_adapter_id}" if change.previous_adapter_id else ""
                node.add(Text(f"{change.alias} since {change.at}{was}: {change.reason} ({change.actor})", "green"))
    for source in found.sources:
        node.add(
            Text.assemble(
                (source.uri, "bold"),
                f"  {source.rows:,} rows, {source.rejected:,} rejected, {source.format}\n",
                (f"sha256 {source.sha256}", "dim"),
            )
        )
    return tree


def _step(step: LineageStep) -> Table:
    facts = ", ".join(f"{name} {_fact(value)}" for name, value in step.facts.items())
    made = f"{step.created_at}, {f'Dagster run {step.dagster_run_id}' if step.dagster_run_id else 'outside Dagster'}"
    cell = Table.grid()
    cell.add_row(Text.assemble((step.asset, "cyan"), " ", (step.artifact_id, "bold")))
    cell.add_row(Text(facts))
    cell.add_row(Text(f"{made}\n{step.url}", "dim"))
    return cell


def _fact(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
