"""The arms of an evaluation: which conversations each one answers, and with which weights.

Running them is in `predictions.py`; comparing them in `scores.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_platform.evaluation.benchmarks import commonest_answer, few_shot_rows
from finetune_platform.inference.base_models import conversation
from finetune_platform.lake import Lake
from finetune_platform.manifests import AdapterManifest, DatasetManifest
from finetune_platform.manifests_training import TrainingManifest
from finetune_platform.rows import Example, Message
from finetune_platform.task import Task

BASELINES = ("trivial", "prompted", "few_shot")
PROMPTS = ("prompted", "few_shot")


@dataclass(frozen=True)
class Arm:
    """One way to answer the benchmark.

    Attributes:
        name: As gates name it: trivial, prompted, few_shot, champion, candidate.
        title: As a table heads it.
        phrase: As a sentence says it.
        description: One sentence for the report.
        system_prompt: Opens each conversation that has no system message of its own.
        shots: Example turns before the row's own.
        adapter: PEFT folder, or a whole model's; None for the base model.
        adapter_id: What the report calls the adapter.
        constant: The answer to everything, of an arm that runs no model.
    """

    name: str
    title: str
    phrase: str
    description: str
    system_prompt: str = ""
    shots: tuple[Message, ...] = ()
    adapter: Path | None = None
    adapter_id: str | None = None
    constant: str | None = None

    def conversation(self, row: Example) -> list[dict[str, Any]]:
        """What the model is sent for `row`."""
        own = list(row.prompt)
        opening = own[:1] if own and own[0].role == "system" else []
        return conversation(self.system_prompt, [*opening, *self.shots, *own[len(opening) :]])


def baseline_arms(task: Task, lake: Lake, dataset: DatasetManifest) -> list[Arm]:
    """What the adapter has to beat: a long prompt, a long prompt with examples, and no model at all."""
    answer = commonest_answer(lake, dataset)
    rows = few_shot_rows(lake, dataset, task.evaluation.few_shot_examples)
    shown = f"{len(rows)} example{'s' if len(rows) != 1 else ''}"
    return [
        Arm(
            "prompted",
            "Long prompt",
            "the long prompt",
            "The base model with the long prompt that a prompt engineer would write.",
            system_prompt=task.baseline_prompt,
        ),
        Arm(
            "few_shot",
            f"Long prompt, {shown}",
            f"the long prompt with {shown}",
            f"The base model with the long prompt and {shown} from the training rows as chat turns.",
            system_prompt=task.baseline_prompt,
            shots=tuple(turn for row in rows for turn in _turns(row)),
        ),
        Arm(
            "trivial",
            "Always the same answer",
            "always giving the same answer",
            "No model: the most frequent training answer, whatever the question.",
            constant=answer,
        ),
    ]


def champion_arm(champion: AdapterManifest, adapter: Path) -> Arm:
    """The adapter that serves today."""
    return Arm(
        "champion",
        "Champion",
        "the champion",
        "The adapter that serves today, with the short prompt that it was trained with.",
        system_prompt=champion.system_prompt,
        adapter=adapter,
        adapter_id=champion.artifact_id,
    )


def candidate_arm(training: TrainingManifest, adapter: Path) -> Arm:
    """The adapter under evaluation."""
    what = "The base model with all weights newly trained" if training.is_whole else "The newly trained adapter"
    return Arm(
        "candidate",
        "New adapter",
        "the adapter",
        f"{what}, with the short prompt that it was trained with.",
        system_prompt=training.system_prompt,
        adapter=adapter,
        adapter_id=training.artifact_id,
    )


def _turns(row: Example) -> Sequence[Message]:
    return [*(m for m in row.prompt if m.role != "system"), Message(role="assistant", content=row.answer)]
