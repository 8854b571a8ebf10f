"""A proposal to change the base model, as files: `proposal.json`, `proposal.html`, `manifest.json`.

What stands in it is measured in `migration.py`.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from finetune_platform.evaluation.migration import MIGRATION_VERSION, TITLES, Migration
from finetune_platform.evaluation.report import environment
from finetune_platform.lake import Lake
from finetune_platform.manifests import MANIFEST_NAME, ProposalManifest
from finetune_platform.model_ref import BaseModelRef
from finetune_platform.task import Task

TEMPLATE = "proposal.html.j2"


def render(found: Migration, next_steps: Sequence[str]) -> str:
    """The page: self-contained, no script."""
    return environment().get_template(TEMPLATE).render(m=found, titles=TITLES, next_steps=next_steps)


def publish_proposal(
    lake: Lake, task: Task, found: Migration, ref: BaseModelRef, parents: dict[str, str]
) -> ProposalManifest:
    """Writes a proposal to the lake, once; the manifest there is returned.

    Args:
        ref: Names the new base model exactly, as the task file would.
        parents: Ids of what it was made from.
    """
    steps = _next_steps(task, found, ref)
    manifest = ProposalManifest(
        artifact_id=found.proposal_id,
        task=found.task,
        parents=parents,
        code_version=MIGRATION_VERSION,
        base_model=found.base_model,
        revision=found.revision,
        revision_before=found.revision_before,
        place=ref.model_dump(),
        recommendation=found.recommendation,
        headline=found.headline,
        next_steps=steps,
    )
    with tempfile.TemporaryDirectory(prefix="proposal-") as temp:
        folder = Path(temp)
        (folder / "proposal.html").write_text(render(found, steps), encoding="utf-8")
        (folder / "proposal.json").write_text(found.model_dump_json(indent=1), encoding="utf-8")
        (folder / MANIFEST_NAME).write_bytes(manifest.to_bytes())
        lake.publish(folder, manifest.path)
    return lake.manifest(ProposalManifest, manifest.path)


def _next_steps(task: Task, found: Migration, ref: BaseModelRef) -> list[str]:
    """How to move, whatever is recommended: a person decides."""
    before = task.base_model.model_dump()
    changed = {key: value for key, value in ref.model_dump().items() if value != before[key]}
    keys = ", ".join(f"base_model.{key}: {value}" for key, value in changed.items())
    move = (
        f"To move: write {keys} into the task file"
        if changed
        else "The same address holds it now, so the next training uses it. To stay: put the old files back"
    )
    steps = [
        f"{move}.",
        f"`finetune base-model {task.name} --accept --reason …` notes the decision; `finetune run {task.name}` trains "
        "on the new base and evaluates it.",
    ]
    if any(gate.max_regression_vs == "champion" and gate.tier == "hard" for gate in task.evaluation.gates):
        steps.append(
            "Gates against the champion stay open in the first evaluation on another base, for one engine cannot run "
            "both: give them tier: warn for that one run."
        )
    return steps
