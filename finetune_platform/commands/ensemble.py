"""`finetune ensemble …`: builds an ensemble's classifier and shows what it is worth."""

from rich.text import Text

from finetune_platform.commands.installation import no_such, open_database, open_lake, read_settings
from finetune_platform.commands.operate import as_rate, new_table
from finetune_platform.commands.terminal import console, print_json
from finetune_platform.errors import BadInput
from finetune_platform.serving.ensemble_build import build_router
from finetune_platform.serving.ensemble_file import FOLDER, Ensemble, find_ensembles
from finetune_platform.serving.ensemble_router import RouterManifest, load_router
from finetune_platform.task_file import find_tasks


def build(name: str, as_json: bool) -> None:
    """Trains and publishes a router."""
    ensemble = _find(name)
    from finetune_platform.inference.embedder import Embedder

    out = console()
    report = (lambda line: None) if as_json else (lambda line: out.print(Text(line, "dim")))
    lake = open_lake()
    artifact_id = build_router(ensemble, lake, open_database(), Embedder(ensemble.embedding_folder), report)
    _show(load_router(lake, name, artifact_id).manifest, as_json)
    if not as_json:
        out.print("next: start the gateways again; they read routers when they start", style="dim")


def show(name: str, as_json: bool) -> None:
    """Shows the newest router."""
    ensemble = _find(name)
    row = open_database().latest_artifact(ensemble.name, "ensemble_router")
    if row is None:
        raise BadInput(f"{name}: it was never built", f"`finetune ensemble build {name}`")
    _show(load_router(open_lake(), name, row.artifact_id).manifest, as_json)


def _find(name: str) -> Ensemble:
    folder = read_settings().tasks_dir
    found = {one.name: one for one in find_ensembles(folder, [task.name for task in find_tasks(folder)])}
    if name not in found:
        raise no_such("ensemble", name, list(found), f"in {folder / FOLDER}")
    return found[name]


def _show(manifest: RouterManifest, as_json: bool) -> None:
    if as_json:
        print_json(manifest)
        return
    out, held = console(), manifest.held_out
    out.print(
        Text(f"{manifest.artifact_id}: ", "bold")
        + Text(
            f"{100 * held.coverage:.1f}% of the specialists' texts go to a specialist, "
            f"{as_rate(held.covered_accuracy, held.covered_n)} of them to their own "
            f"(at least {100 * held.covered_lower:.1f}%); {held.n:,} texts that it had not seen"
        ),
        soft_wrap=True,
    )
    out.print(
        f"without the limit {manifest.min_confidence:g}: {100 * held.accuracy:.1f}% right; confidence is off by "
        f"{100 * held.calibration_error:.1f} points on average"
    )
    answering = list(next(iter(held.confusion.values())))
    table = new_table("texts of", *(f"to {task}" for task in answering))
    for task, row in held.confusion.items():
        table.add_row(task, *(f"{row[other]:,}" for other in answering))
    out.print(table)
