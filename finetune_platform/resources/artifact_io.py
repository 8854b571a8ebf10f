"""Artifacts pass between assets as their manifests: written to the `artifacts` table, read back from the lake.

Nothing is pickled, and nothing is "the latest by modification time": the table's sequence says what is current.
"""

from dagster import ConfigurableIOManager, InputContext, OutputContext, ResourceDependency

from finetune_platform.database import Database
from finetune_platform.errors import BadInput
from finetune_platform.lake import Lake
from finetune_platform.manifests import Manifest
from finetune_platform.registry.artifacts import read_manifest


class ArtifactIOManager(ConfigurableIOManager):
    """Records an asset's manifest, and gives it to the assets downstream.

    The lake and the database are resources of their own, so that a test replaces them in one place.
    """

    lake: ResourceDependency[Lake]
    database: ResourceDependency[Database]

    def handle_output(self, context: OutputContext, obj: Manifest) -> None:
        asset = context.asset_key.path[-1]
        self.database.record_artifact(obj, asset, self.lake.url_of(obj.path), context.run_id)

    def load_input(self, context: InputContext) -> Manifest:
        task, asset = context.asset_key.path[0], context.asset_key.path[-1]
        current = self.database.latest_artifact(task, asset)
        if current is None:
            raise BadInput(
                f"{task}/{asset}: it has never been materialized here",
                f"materialize it first, or run `finetune run {task} --to {asset}`",
            )
        return read_manifest(self.lake, asset, task, current.artifact_id)
