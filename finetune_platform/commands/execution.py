"""Which stages of a chain a command runs: those asked for, from the first one on that is not in place."""

import time

from finetune_platform.commands.installation import find_task
from finetune_platform.commands.status import stages_in_place
from finetune_platform.definitions import build_defs
from finetune_platform.progress import SendEvent, StageEvent
from finetune_platform.registry.artifacts import CHAIN
from finetune_platform.sensors.by_hand import execute

ROLLOUT = "rollout"
"""What follows the last artifact: its adapter begins to earn traffic."""


def run_chain(task: str, start: str, end: str, force: bool, send: SendEvent) -> str:
    """Materializes the stages from `start` to `end`, from the first one on that is not in place.

    Args:
        task: Its name.
        start: First asset.
        end: Last asset.
        force: Run stages that are in place too.
        send: Hears of every stage.

    Returns:
        The Dagster run's id; empty where everything was in place.

    Raises:
        FinetuneError: With the problem and mend of the stage that failed.
    """
    chain = list(CHAIN)
    stages = chain[chain.index(start) : chain.index(end) + 1]
    skipped = [] if force else stages_in_place(find_task(task), stages)
    for stage in skipped:
        send(StageEvent(stage, "skipped", "in place", time.time()))
    wanted = stages[len(skipped) :]
    if wanted and end == chain[-1]:
        wanted.append(ROLLOUT)
    return execute(build_defs().resolve_job_def(f"{task}_chain"), task, wanted, send) if wanted else ""
