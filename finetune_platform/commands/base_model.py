"""`finetune base-model`: the newest proposal to change a task's base model, and a person's yes to it."""

from typing import Any

from rich.text import Text

from finetune_platform import audit
from finetune_platform.commands.installation import find_task, open_database, open_lake
from finetune_platform.commands.operate import actor
from finetune_platform.commands.terminal import console, print_json
from finetune_platform.errors import BadInput
from finetune_platform.manifests import ProposalManifest

ASSET = "base_model_proposal"
COLOURS = {"retrain": "green", "stay": "red", "no_difference": "yellow"}


def base_model(name: str, accept: bool, reason: str, as_json: bool) -> None:
    """Prints the newest proposal; with `accept`, notes that a person agrees to it.

    Raises:
        BadInput: No such task, nothing was proposed, or a yes without a reason.
    """
    task, lake, database = find_task(name), open_lake(), open_database()
    made = database.latest_artifact(task.name, ASSET)
    if made is None:
        raise BadInput(
            f"{task.name}: nothing was proposed", "the sensor base_model_update looks every half hour: `finetune up`"
        )
    proposal = lake.manifest(ProposalManifest, ProposalManifest.path_of(task.name, made.artifact_id))
    if accept:
        if not reason.strip():
            raise BadInput("base-model --accept needs a reason", "say why: --reason …")
        with database.session() as session:
            audit.record(
                session,
                actor=actor(),
                action="base_model.accept",
                subject=task.name,
                reason=reason,
                details={"proposal": proposal.artifact_id, "base_model": proposal.place},
            )
    page = lake.url_of(f"{proposal.path}/proposal.html")
    if as_json:
        print_json({**proposal.model_dump(mode="json"), "page": page, "accepted": accept})
        return
    _print(proposal, page, accept)


def _print(proposal: ProposalManifest, page: str, accepted: bool) -> None:
    out = console()
    colour: Any = COLOURS[proposal.recommendation]
    out.print(Text(proposal.headline, colour), soft_wrap=True)
    moved = f"{proposal.base_model}: {proposal.revision_before} → {proposal.revision}"
    out.print(Text(f"{moved}, proposed {proposal.created_at[:10]}", "dim"), soft_wrap=True)
    out.print(f"evidence: {page}", soft_wrap=True)
    for step in proposal.next_steps:
        out.print(Text(f"  {step}"), soft_wrap=True)
    if accepted:
        out.print("accepted; it stands in the audit log. The task file is yours to change: nothing was edited.")
