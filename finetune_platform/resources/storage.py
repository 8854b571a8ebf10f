"""The two addresses that hold everything, as Dagster resources."""

from dagster import ConfigurableResource
from pydantic import PrivateAttr

from finetune_platform.database import Database
from finetune_platform.lake import Lake
from finetune_platform.settings import settings


class LakeResource(ConfigurableResource[Lake]):
    """Files and tables at `url`; an asset receives the `Lake` itself."""

    url: str

    def create_resource(self, context: object) -> Lake:
        return Lake(self.url)


class DatabaseResource(ConfigurableResource[Database]):
    """Small mutable state at `url`; an asset receives the `Database` itself.

    Without `url` it is the settings' `DATABASE_URL`: the UI shows resource configuration, and that may hold a password.
    """

    url: str = ""
    _database: Database | None = PrivateAttr(default=None)

    def create_resource(self, context: object) -> Database:
        if self._database is None:
            self._database = Database(self.url or settings().database_url)
        return self._database
