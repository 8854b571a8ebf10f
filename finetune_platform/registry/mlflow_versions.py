"""MLflow's model registry as this platform uses it: one registered model a task, one version a bundle, two aliases.

Every function looks before it acts, so each may be repeated after a crash. Who serves when is not MLflow's to say:
the promotions table is (`register.py`).
"""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from finetune_platform.errors import BadInput, Unreachable

if TYPE_CHECKING:
    from mlflow import MlflowClient

CONNECT_TIMEOUT_S = 5
DEFAULT_PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306}
ALREADY_THERE = "RESOURCE_ALREADY_EXISTS"
NOT_THERE = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
"""MLflow's codes for an absent model, and for an alias that a model does not have."""


@contextmanager
def model_registry(tracking_uri: str) -> Iterator["MlflowClient"]:
    """MLflow's client; its failures as errors with a mend.

    Raises:
        Unreachable: MLflow does not answer, or refuses.
    """
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    place = without_password(tracking_uri)
    try:
        _expect_listener(tracking_uri)
        # Without registry_uri the client reads MLFLOW_REGISTRY_URI and may write elsewhere.
        yield MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)
    except (MlflowException, SQLAlchemyError, OSError) as error:
        told = error.message if isinstance(error, MlflowException) else str(error).partition("\n")[0]
        raise Unreachable(
            f"MLflow at {place}: {told}",
            "check MLFLOW_TRACKING_URI and that it runs (`finetune doctor`), then repeat: nothing is done twice",
        ) from error


def refuse_unservable_source(tracking_uri: str, source: str) -> None:
    """An MLflow server takes no local path as a version's source; its database, addressed directly, takes any.

    Raises:
        BadInput: The lake is a local folder and MLflow a server.
    """
    if tracking_uri.startswith(("http://", "https://")) and ("://" not in source or source.startswith("file:")):
        raise BadInput(
            f"MLFLOW_TRACKING_URI: the server {tracking_uri} refuses model versions in the local folder {source}",
            "set LAKE_URL to a bucket that both reach, or MLFLOW_TRACKING_URI to the database (sqlite:///, postgresql://)",
        )


def ensure_version(
    client: "MlflowClient", model: str, description: str, source: str, run_id: str | None, tags: dict[str, str]
) -> str:
    """The version of `model` tagged with this `adapter_id`, made where there is none.

    Returns:
        The version's number, as MLflow spells it.
    """
    _ensure_model(client, model, description)
    if version := find_version(client, model, tags["adapter_id"]):
        return version
    made = client.create_model_version(model, source, run_id=run_id, tags=tags, await_creation_for=0)
    return str(made.version)


def find_version(client: "MlflowClient", model: str, adapter_id: str) -> str | None:
    """The version that holds an adapter, None where there is none."""
    found = client.search_model_versions(f"name = '{model}' and tag.adapter_id = '{adapter_id}'")
    return str(min(int(version.version) for version in found)) if found else None


def alias_version(client: "MlflowClient", model: str, alias: str) -> str | None:
    """The version an alias points to, None where it points nowhere."""
    from mlflow.exceptions import MlflowException

    try:
        return str(client.get_model_version_by_alias(model, alias).version)
    except MlflowException as error:
        if error.error_code in NOT_THERE:
            return None
        raise


def point_alias(client: "MlflowClient", model: str, alias: str, version: str) -> None:
    """Moves an alias to `version` unless it is there."""
    if alias_version(client, model, alias) != version:
        client.set_registered_model_alias(model, alias, version)


def _expect_listener(uri: str) -> None:
    """Asks for a connection first: MLflow's own client retries an address that nobody listens at for minutes."""
    parts = urlsplit(uri)
    port = parts.port or DEFAULT_PORTS.get(parts.scheme.partition("+")[0])
    if parts.hostname and port:
        socket.create_connection((parts.hostname, port), CONNECT_TIMEOUT_S).close()


def _ensure_model(client: "MlflowClient", model: str, description: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(model, description=description)
    except MlflowException as error:
        if error.error_code != ALREADY_THERE:
            raise


def without_password(uri: str) -> str:
    scheme, _, rest = uri.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}" if "@" in rest else uri
