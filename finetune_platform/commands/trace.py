"""`finetune trace`: the way forward from a row, as a tree."""

from rich.text import Text
from rich.tree import Tree

from finetune_platform.commands.installation import open_database, open_lake
from finetune_platform.commands.terminal import print_json, print_tree
from finetune_platform.registry.trace import AdapterUse, DatasetAppearance, Fate, Trace, trace


def show_trace(row: str, as_json: bool) -> None:
    """Shows where a row went."""
    found = trace(row, open_lake(), open_database())
    if as_json:
        print_json(found)
    else:
        print_tree(render_trace(found))


def render_trace(found: Trace) -> Tree:
    """The tree, from the row to the adapters it touched."""
    tree = Tree(Text(found.row, "bold"))
    for raw in found.raw:
        read = tree.add(Text.assemble((f"{raw.task} raw_examples ", "cyan"), raw.raw_id))
        for fate in raw.fates:
            read.add(_fate(fate, "read"))
    for dataset in found.datasets:
        _add_dataset(tree, dataset)
    if not found.datasets:
        tree.add(Text("it is in no dataset", "dim"))
    return tree


def _add_dataset(tree: Tree, dataset: DatasetAppearance) -> None:
    node = tree.add(Text.assemble((f"{dataset.task} curated_dataset ", "cyan"), dataset.dataset_id))
    for fate in dataset.fates:
        node.add(_fate(fate, "in"))
    taught = any(fate.split == "train" for fate in dataset.fates)
    for run in dataset.training_runs:
        told = "learned from it" if taught else "did not learn from it"
        training = node.add(Text.assemble(("trained_adapter ", "cyan"), run.training_id, f"  {told}"))
        for adapter in run.adapters:
            _add_adapter(training, adapter)
        if not run.adapters:
            training.add(Text("no adapter was registered from it", "dim"))


def _add_adapter(tree: Tree, adapter: AdapterUse) -> None:
    node = tree.add(Text.assemble(("registered_adapter ", "cyan"), (adapter.adapter_id, "bold")))
    for change in adapter.aliases:
        node.add(Text(f"{change.alias} since {change.at}: {change.reason}", "green"))


def _fate(fate: Fate, accepted: str) -> Text:
    place = f"{fate.source_uri}:{fate.source_row}"
    if fate.reason:
        return Text(f"rejected at {fate.stage}: {fate.reason}: {fate.detail}  {place}", "yellow")
    where = f"in {fate.split}" if fate.split else accepted
    return Text(f"{where}  {fate.example_id}  {place}")
