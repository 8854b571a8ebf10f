"""What a task's adapters have cost to train."""

from datetime import datetime

from finetune_platform.database import Database
from finetune_platform.lake import Lake
from finetune_platform.manifests import TrainingManifest


def training_hours(task: str, lake: Lake, database: Database, since: datetime) -> float:
    """Hours of training since a moment; a run that was found in place again counts once."""
    made = {
        artifact.artifact_id: artifact
        for artifact in database.artifacts_of(task)
        if artifact.asset == "trained_adapter" and artifact.created_at > since
    }
    seconds = 0.0
    for artifact_id in made:
        path = TrainingManifest.path_of(task, artifact_id)
        if lake.is_published(path):
            seconds += lake.manifest(TrainingManifest, path).train_seconds
    return seconds / 3600
