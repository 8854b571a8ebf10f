"""Where this installation keeps things and how it launches: the environment, read once.

Nothing else reads `os.environ`. What a user decides about one task stands in its task file instead.
"""

from functools import lru_cache
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from finetune_platform.errors import BadInput
from finetune_platform.task_launcher import Place

LOOPBACK = ("127.0.0.1", "::1", "localhost")


class Settings(BaseSettings):
    """Every environment variable the platform knows, by its upper-case name.

    Attributes:
        finetune_home: Folder of all local state.
        lake_url: Files and tables: a folder, `file://…`, `s3://bucket/prefix`, `gs://…`, `az://…`.
        database_url: Small mutable state: `sqlite:///…` or `postgresql://…`.
        tasks_dir: Folder of task files.
        launcher: Where training runs, unless a task says otherwise.
        mlflow_tracking_uri: MLflow's store; default: beside `database_url`.
        dagster_home: Dagster's own state.
        cache_dir: Downloads and local copies of models; safe to delete.
        upstream_api_keys: Keys of OpenAI-compatible servers by the names that task files use, as a JSON object.
        oidc_issuer: Identity provider whose tokens people may show the gateway; "" for none.
        oidc_audience: What that provider calls the gateway.
        oidc_roles_claim: Claim with a person's roles, or the path to it: `realm_access.roles`.
        otlp_endpoint: An OTLP/HTTP collector, such as `http://127.0.0.1:4318`; "" sends no traces.
        otlp_traces_endpoint: The whole address for traces, where it is not `/v1/traces` below `otlp_endpoint`.
        notify_urls: Who hears of events, Apprise URLs with names: `ops=slack://…, mail=mailtos://…`; "" for nobody.
        dagster_url: Where people open Dagster's UI, for links in messages.
        gateway_url: Where people open the gateway's pages, for links in messages.
        label_studio_token: A personal access token of the Label Studio that task files name; "" where none does.
        gguf_converter: llama.cpp's `convert_hf_to_gguf.py`, a Python before it or not; "" looks for it on PATH.
    """

    model_config = SettingsConfigDict(extra="ignore", frozen=True)

    finetune_home: Path = Path(".finetune")
    lake_url: str = ""
    database_url: str = ""
    tasks_dir: Path = Path("tasks")
    launcher: Place = "local"
    mlflow_tracking_uri: str = ""
    dagster_home: Path = Field(default=Path())
    cache_dir: Path = Field(default=Path(), validation_alias="FINETUNE_CACHE_DIR")
    upstream_api_keys: dict[str, str] = Field(default={}, repr=False)
    oidc_issuer: str = ""
    oidc_audience: str = Field(default="", validate_default=True)
    oidc_roles_claim: str = "roles"
    otlp_endpoint: str = Field(default="", validation_alias="OTEL_EXPORTER_OTLP_ENDPOINT")
    otlp_traces_endpoint: str = Field(default="", validation_alias="OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    notify_urls: SecretStr = SecretStr("")
    dagster_url: str = ""
    gateway_url: str = ""
    label_studio_token: SecretStr = SecretStr("")
    gguf_converter: str = ""

    @field_validator("oidc_issuer")
    @classmethod
    def fetch_keys_safely(cls, issuer: str) -> str:
        """Over plain http anybody on the way could put in a signing key of their own."""
        url = urlsplit(issuer)
        if issuer and not url.hostname:
            raise ValueError("is not an address")
        if issuer and url.scheme != "https" and (url.scheme != "http" or url.hostname not in LOOPBACK):
            raise ValueError("must start with https://")
        return issuer

    @field_validator("oidc_audience")
    @classmethod
    def know_for_whom(cls, audience: str, others: ValidationInfo) -> str:
        """Without an audience, a token for any other application of the same provider would do."""
        if others.data.get("oidc_issuer") and not audience:
            raise ValueError("is needed with OIDC_ISSUER")
        return audience

    @field_validator("otlp_endpoint", "otlp_traces_endpoint")
    @classmethod
    def speak_http(cls, endpoint: str) -> str:
        """The usual `host:4317` is gRPC's, which is not spoken here."""
        url = urlsplit(endpoint)
        if endpoint and (url.scheme not in ("http", "https") or not url.hostname):
            raise ValueError("must be an address such as http://collector:4318")
        return endpoint

    @field_validator("dagster_url", "gateway_url")
    @classmethod
    def can_be_opened(cls, address: str) -> str:
        """A link that leads nowhere is worse than none."""
        url = urlsplit(address)
        if address and (url.scheme not in ("http", "https") or not url.hostname):
            raise ValueError("must be an address such as https://finetune.example")
        return address.removesuffix("/")

    @field_validator("database_url")
    @classmethod
    def name_the_driver(cls, url: str) -> str:
        """SQLAlchemy takes a bare `postgresql://` for psycopg2; the installed driver is psycopg 3."""
        for bare in ("postgresql://", "postgres://"):
            if url.startswith(bare):
                return "postgresql+psycopg://" + url.removeprefix(bare)
        return url

    @model_validator(mode="before")
    @classmethod
    def fill_in(cls, values: dict[str, object]) -> dict[str, object]:
        """Defaults that follow from `finetune_home`, absolute, so that every process means the same place."""
        home = Path(str(values.get("finetune_home") or ".finetune")).absolute()
        database = str(values.get("database_url") or f"sqlite:///{home / 'finetune.db'}")
        # MLflow and this platform both run Alembic; one SQLite file would also serialise their writers.
        mlflow = f"sqlite:///{home / 'mlflow.db'}" if database.startswith("sqlite") else cls.name_the_driver(database)
        defaults: dict[str, object] = {
            "finetune_home": home,
            "lake_url": str(home / "lake"),
            "database_url": database,
            "mlflow_tracking_uri": mlflow,
            "dagster_home": home / "dagster",
            "FINETUNE_CACHE_DIR": home / "cache",
        }
        filled = {**defaults, **{k: v for k, v in values.items() if v not in (None, "")}, "finetune_home": home}
        if "://" not in (lake := str(filled["lake_url"])):
            filled["lake_url"] = str(Path(lake).expanduser().absolute())
        return filled

    @property
    def traces_endpoint(self) -> str:
        """Where traces go; "" where nobody wants them."""
        below = f"{self.otlp_endpoint.removesuffix('/')}/v1/traces" if self.otlp_endpoint else ""
        return self.otlp_traces_endpoint or below

    @property
    def lake_is_local(self) -> bool:
        return "://" not in self.lake_url or self.lake_url.startswith("file://")


class Launched(BaseSettings):
    """What torchrun and its like tell each of several processes that compute together; nothing where there is one.

    Attributes:
        rank: Of this process among all, from 0.
        local_rank: Among those of this machine.
        world_size: How many there are.
    """

    model_config = SettingsConfigDict(extra="ignore", frozen=True)

    rank: int = 0
    local_rank: int = 0
    world_size: int = 1


@lru_cache(maxsize=1)
def settings() -> Settings:
    """This process's settings; `settings.cache_clear()` reads the environment again.

    Raises:
        BadInput: A variable has a value that it cannot have.
    """
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]).upper() if first["loc"] else "environment"
        raise BadInput(f"{name}: {first['msg']} (it is {first['input']!r})", f"correct or unset {name}") from error
