"""Opening the object store at an address: schemes, credentials, timeouts and retries.

What is kept there belongs in `lake.py`, what its failures mean in `storage_errors.py`.
"""

import re
import urllib.parse
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from obstore.store import LocalStore, from_url

from finetune_platform.errors import BadInput, Unreachable
from finetune_platform.storage_errors import disk_failures

if TYPE_CHECKING:
    import boto3

BUCKET_SCHEMES = ("s3", "s3a", "gs", "az", "abfs", "abfss")

# A wrong address must fail in about ten seconds (the library's own defaults retry for three minutes), a busy
# server still gets a handful of attempts. `read_timeout` spans a part's whole upload, so it must outlast a slow
# line. `allow_http` leaves it to the endpoint's own scheme.
CLIENT_OPTIONS: dict[str, Any] = {"allow_http": True, "connect_timeout": "3s", "read_timeout": "60s", "timeout": "15m"}
RETRY: dict[str, Any] = {
    "max_retries": 6,
    "retry_timeout": timedelta(seconds=8),
    "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=2), "base": 2},
}
TABLE_OPTIONS = {
    "allow_http": "true",
    "connect_timeout": "3s",
    "timeout": "2m",
    "max_retries": "6",
    "retry_timeout": "8s",
}
"""The same for tables in a bucket, in the words of the Delta library."""


def parse_url(url: str) -> tuple[str, Path | None]:
    """The address without a trailing slash, and the folder where it is one.

    Raises:
        BadInput: No such scheme, or no bucket.
    """
    scheme = re.match(r"^([A-Za-z][A-Za-z0-9+.-]+):", url)
    if scheme is None or url.startswith("file://"):
        plain = urllib.parse.unquote(url.removeprefix("file://")) if scheme else url
        if not plain:
            raise BadInput(f"{url!r} is not an address of files", "give a folder, or s3://bucket/prefix")
        folder = Path(plain).expanduser().absolute()
        return str(folder), folder
    if scheme[1] not in BUCKET_SCHEMES:
        known = ", ".join(f"{name}://" for name in BUCKET_SCHEMES)
        raise BadInput(f"{url}: the scheme {scheme[1]}: is not known", f"use a folder, file://, or one of {known}")
    if not urllib.parse.urlsplit(url).netloc:
        raise BadInput(f"{url}: names no bucket", f"write {scheme[1]}://bucket/prefix")
    return url.rstrip("/"), None


def open_store(url: str, folder: Path | None) -> Any:
    """The store at an address that `parse_url` gave; a local folder is made.

    Raises:
        StorageFailed: The folder cannot be made.
        Unreachable: The configured credentials cannot be read.
    """
    if folder is None:
        session = _aws_session(url)
        if session is None:
            return from_url(url, client_options=CLIENT_OPTIONS, retry_config=RETRY)
        from obstore.auth.boto3 import Boto3CredentialProvider

        provider = Boto3CredentialProvider(session)
        return from_url(url, client_options=CLIENT_OPTIONS, retry_config=RETRY, credential_provider=provider)
    with disk_failures(folder):
        folder.mkdir(parents=True, exist_ok=True)
        return LocalStore(folder, automatic_cleanup=True)


def table_options(url: str, folder: Path | None) -> dict[str, str]:
    """What the Delta library must be told to reach tables at the same address."""
    if folder is not None:
        return {}
    session = _aws_session(url)
    if session is None:
        return TABLE_OPTIONS
    keys = session.get_credentials().get_frozen_credentials()
    told = {
        "aws_access_key_id": keys.access_key,
        "aws_secret_access_key": keys.secret_key,
        "aws_session_token": keys.token,
        "aws_region": session.region_name,
    }
    return TABLE_OPTIONS | {name: value for name, value in told.items() if value}


def _aws_session(url: str) -> "boto3.Session | None":
    """boto3's chain of credentials: unlike the stores' own, it reads profiles and single sign-on too."""
    if not url.startswith("s3"):
        return None
    import boto3
    from botocore.exceptions import BotoCoreError

    try:
        session = boto3.Session()
        return session if session.get_credentials() else None
    except BotoCoreError as error:
        raise Unreachable(f"{url}: {error}", "correct AWS_PROFILE or the AWS configuration files") from error
