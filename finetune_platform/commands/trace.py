"""`finetune trace`: the way forward from a row, as a tree."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from rich.text import Text
from rich.tree import Tree

from finetune_platform.commands.installation import open_database, open_lake
from finetune_platform.commands.terminal import plain, print_json, print_tree
from finetune_platform.registry.label_walk import LabelFound
from finetune_platform.registry.trace import AdapterUse, DatasetAppearance, Fate, Trace, TrainingUse, trace
from finetune_platform.serving.routes import Span, history


def show_trace(row: str, as_json: bool) -> None:
    """Shows where a row went."""
    database = open_database()
    found = trace(row, open_lake(), database)
    served: dict[str, list[Span]] = {}
    for task in sorted({dataset.task for dataset in found.datasets}):
        for span in history(database, task):
            served.setdefault(span.adapter_id, []).append(span)
    if as_json:
        taught = {a.adapter_id for d in found.datasets for run in d.training_runs for a in run.descendants}
        spans = [span._asdict() for name in sorted(taught) for span in served.get(name, [])]
        print_json({**plain(found), "served": spans})
    else:
        print_tree(render_trace(found, served))


def render_trace(found: Trace, served: Mapping[str, Sequence[Span]] = MappingProxyType({})) -> Tree:
    """The tree, from the row to the adapters it touched and what these served.

    Args:
        served: By adapter, its shares of the traffic.
    """
    tree = Tree(Text(found.row, "bold"))
    for label in found.labels:
        tree.add(_label(label))
    for raw in found.raw:
        read = tree.add(Text.assemble((f"{raw.task} raw_examples ", "cyan"), raw.raw_id))
        for fate in raw.fates:
            read.add(_fate(fate, "read"))
    for dataset in found.datasets:
        _add_dataset(tree, dataset, served)
    if not found.datasets:
        tree.add(Text("it is in no dataset", "dim"))
    return tree


def _add_dataset(tree: Tree, dataset: DatasetAppearance, served: Mapping[str, Sequence[Span]]) -> None:
    node = tree.add(Text.assemble((f"{dataset.task} curated_dataset ", "cyan"), dataset.dataset_id))
    for fate in dataset.fates:
        node.add(_fate(fate, "in"))
    for run in dataset.training_runs:
        _add_training(node, run, "learned from it" if dataset.taught(run) else "did not learn from it", served)


def _add_training(tree: Tree, run: TrainingUse, told: str, served: Mapping[str, Sequence[Span]]) -> None:
    training = tree.add(Text.assemble(("trained_adapter ", "cyan"), run.training_id, f"  {told}"))
    for adapter in run.adapters:
        _add_adapter(training, adapter, served)
    if not run.adapters:
        training.add(Text("no adapter was registered from it", "dim"))


def _add_adapter(tree: Tree, adapter: AdapterUse, served: Mapping[str, Sequence[Span]]) -> None:
    node = tree.add(Text.assemble(("registered_adapter ", "cyan"), (adapter.adapter_id, "bold")))
    for change in adapter.aliases:
        node.add(Text(f"{change.alias} since {change.at}: {change.reason}", "green"))
    for span in served.get(adapter.adapter_id, ()):
        until = f"{span.until:%Y-%m-%d %H:%M}" if span.until else "now"
        share = f"{100 * span.share:g}%"
        node.add(Text(f"served {share} as {span.arm}, {span.since:%Y-%m-%d %H:%M} to {until} UTC"))
    for heir in adapter.heirs:
        _add_training(node, heir, "began at its weights", served)


def _label(label: LabelFound) -> Text:
    people = ", ".join(label.decided_by)
    return Text.assemble(
        ("label ", "cyan"), (label.label_id, "bold"), f"  {label.place}\n{label.label_from}, {label.how}: {people}, ",
        f"{label.decided_at[:16].replace('T', ' ')} UTC\n", (label.answer, "green"),
        (f"\nof interaction {label.interaction_id}, which {label.adapter_id} answered: {label.suggestion}", "dim"),
    )  # fmt: skip


def _fate(fate: Fate, accepted: str) -> Text:
    place = f"{fate.source_uri}:{fate.source_row}"
    if fate.reason:
        return Text(f"rejected at {fate.stage}: {fate.reason}: {fate.detail}  {place}", "yellow")
    where = f"in {fate.split}" if fate.split else accepted
    kind = "" if fate.kind == "sft" else f" ({fate.kind})"
    return Text(f"{where}  {fate.example_id}{kind}  {place}")
