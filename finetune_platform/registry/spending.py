"""What a task's adapters have cost to train."""

from datetime import datetime

from finetune_platform.database import Database
from finetune_platform.lake import Lake
from finetune_platform.manifests_training import TrainingManifest


def training_hours(task: str, lake: Lake, database: Database, since: datetime) -> float:
    """Hours of training and of searches for its options since a moment; what was found in place again counts once."""
    made = {
        artifact.artifact_id: artifact
        for artifact in database.artifacts_of(task)
        if artifact.asset == "trained_adapter" and artifact.created_at > since
    }
    seconds, searches = 0.0, dict[str, float]()
    for artifact_id in made:
        path = TrainingManifest.path_of(task, artifact_id)
        if lake.is_published(path):
            run = lake.manifest(TrainingManifest, path)
            seconds += run.train_seconds
            if run.searched is not None:
                searches[run.searched.search] = run.searched.seconds
    return (seconds + sum(searches.values())) / 3600
