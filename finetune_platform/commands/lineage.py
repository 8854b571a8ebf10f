"""`finetune lineage`: the way back from an adapter, as a tree."""

import sys

from rich.text import Text
from rich.tree import Tree

from finetune_platform.commands.installation import open_database, open_lake
from finetune_platform.commands.terminal import plain, print_json, print_tree
from finetune_platform.registry.lineage import ROW_COLUMNS, Lineage, LineageStep, lineage, lineage_rows


def show_lineage(name: str, rows: bool, as_json: bool) -> None:
    """Shows where an artifact (or a task's champion) comes from."""
    lake = open_lake()
    found = lineage(name, lake, open_database())
    if as_json:
        listed = {"rows": list(lineage_rows(found, lake))} if rows else {}
        print_json({**plain(found), **listed})
        return
    print_tree(render_lineage(found))
    if rows:
        # As they come: a table would hold a million rows to measure its columns.
        sys.stdout.write("\n" + "\t".join(ROW_COLUMNS) + "\n")
        for row in lineage_rows(found, lake):
            sys.stdout.write("\t".join(str(row[column]) for column in ROW_COLUMNS) + "\n")


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


def _step(step: LineageStep) -> Text:
    facts = ", ".join(f"{name} {_fact(value)}" for name, value in step.facts.items())
    made = f"{step.created_at}, {f'Dagster run {step.dagster_run_id}' if step.dagster_run_id else 'outside Dagster'}"
    return Text.assemble(
        (step.asset, "cyan"), " ", (step.artifact_id, "bold"), f"\n{facts}\n", (f"{made}\n{step.url}", "dim")
    )


def _fact(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
