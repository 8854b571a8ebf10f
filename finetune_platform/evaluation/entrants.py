"""Who takes part in an evaluation: the arms, and why one that a gate names may be missing.

What an arm is stands in `arms.py`; what a missing one means for a gate in `gates.py`.
"""

from dataclasses import dataclass, field
from pathlib import Path

from finetune_platform.evaluation.arms import Arm, baseline_arms, candidate_arm, champion_arm
from finetune_platform.lake import Lake
from finetune_platform.manifests import AdapterManifest, DatasetManifest
from finetune_platform.manifests_training import TrainingManifest
from finetune_platform.task import Task


@dataclass(frozen=True)
class Entrants:
    """The arms of an evaluation.

    Attributes:
        arms: In the order of the report.
        absent: References that do not exist, with the reason: gates against them are skipped.
        blocked: References that exist and cannot be measured, with the reason: gates against them stay open.
    """

    arms: list[Arm]
    absent: dict[str, str] = field(default_factory=dict)
    blocked: dict[str, str] = field(default_factory=dict)

    @property
    def by_name(self) -> dict[str, Arm]:
        return {arm.name: arm for arm in self.arms}


def is_candidate(champion: AdapterManifest | None, training: TrainingManifest) -> bool:
    """Whether the champion is the very adapter under evaluation."""
    return champion is not None and champion.parents.get("trained_adapter") == training.artifact_id


def gather(
    task: Task,
    dataset: DatasetManifest,
    training: TrainingManifest,
    champion: AdapterManifest | None,
    lake: Lake,
    work_dir: Path,
) -> Entrants:
    """Baselines, champion and candidate, with both adapters fetched below `work_dir`."""
    run = lake.fetch(training.path, work_dir / "training_runs" / training.artifact_id, without="checkpoints")
    arms = [candidate_arm(training, run / "adapter")]
    absent, blocked = {}, {}
    if champion is None:
        absent["champion"] = "there is no champion yet"
    elif is_candidate(champion, training):
        absent["champion"] = "the adapter is the champion itself"
    elif champion.base_model_revision != training.base_model_revision:
        blocked["champion"] = (
            f"champion {champion.artifact_id} stands on {champion.base_model}@{champion.base_model_revision}, the new "
            f"adapter on {training.base_model}@{training.base_model_revision}: one engine cannot run both"
        )
    else:
        arms.append(champion_arm(champion, lake.fetch(champion.path, work_dir / "adapters" / champion.artifact_id)))
    return Entrants([*arms, *baseline_arms(task, lake, dataset)], absent, blocked)
