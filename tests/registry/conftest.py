"""Chains of artifacts on every lake and database, and an MLflow of one's own."""

import hashlib
from pathlib import Path

import pytest
from made_chains import ChainFactory

from finetune_platform.database import Database
from finetune_platform.inference.base_models import ResolvedModel, load_tokenizer
from finetune_platform.lake import Lake


@pytest.fixture(scope="session")
def base_model(tiny_model: Path) -> ResolvedModel:
    template = str(load_tokenizer(tiny_model).chat_template)
    return ResolvedModel(tiny_model, "tiny", "r0", hashlib.sha256(template.encode()).hexdigest())


@pytest.fixture
def chains(lake: Lake, database: Database, base_model: ResolvedModel) -> ChainFactory:
    """Chains on every lake and database."""
    return ChainFactory(lake, database, base_model)


@pytest.fixture
def local_chains(local_lake: Lake, tmp_path: Path, base_model: ResolvedModel) -> ChainFactory:
    """Chains on the default lake and database."""
    return ChainFactory(local_lake, Database(f"sqlite:///{tmp_path / 'chains.db'}"), base_model)


@pytest.fixture(scope="session")
def mlflow_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database with its tables made, which takes seconds: copied, not made again."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    uri = f"sqlite:///{path}"
    MlflowClient(uri, uri).search_registered_models()
    return path


@pytest.fixture
def tracking_uri(mlflow_template: Path, tmp_path: Path) -> str:
    """An empty MLflow."""
    copy = tmp_path / "mlflow.db"
    copy.write_bytes(mlflow_template.read_bytes())
    return f"sqlite:///{copy}"
