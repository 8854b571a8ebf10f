"""DAGSTER_HOME: the folder of Dagster's own state, with the project's `dagster.yaml` in it.

Besides `settings.py` this is the one place that touches the environment: Dagster takes its home from nowhere else,
and without one it keeps sensor cursors in a temporary folder that it deletes.
"""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from finetune_platform.errors import PermanentError
from finetune_platform.settings import Settings
from finetune_platform.storage_errors import disk_failures

CONFIG_NAME = "dagster.yaml"
SHIPPED_HASH_NAME = ".dagster.yaml.sha256"
"""Holds the SHA-256 of the shipped file as last copied: another content beside it is a user's edit."""

ConfigState = Literal["absent", "current", "outdated", "edited"]


def shipped_config() -> Path:
    """The project's `dagster.yaml`: in the package where it is installed, at the repository's root otherwise."""
    package = Path(__file__).parents[1]
    for candidate in (package / CONFIG_NAME, package.parent / CONFIG_NAME):
        if candidate.is_file():
            return candidate
    raise PermanentError(f"{package / CONFIG_NAME}: missing from this installation", "install the package again")


def config_state(home: Path, shipped: Path) -> ConfigState:
    """How the `dagster.yaml` in `home` relates to the shipped one."""
    target, remembered = home / CONFIG_NAME, home / SHIPPED_HASH_NAME
    if not target.is_file():
        return "absent"
    ours = _sha256(target)
    if ours == _sha256(shipped):
        return "current"
    last_shipped = remembered.read_text(encoding="utf-8").strip() if remembered.is_file() else ""
    return "outdated" if ours == last_shipped else "edited"


def prepare(settings: Settings, shipped: Path | None = None) -> Path:
    """Makes the folder, brings its `dagster.yaml` up to date unless a user edited it, and sets DAGSTER_HOME.

    Args:
        settings: Says where the folder is.
        shipped: The file to copy; the project's own by default.

    Raises:
        StorageFailed: The folder cannot be written.
    """
    home = settings.dagster_home.absolute()
    source = shipped or shipped_config()
    with disk_failures(home):
        home.mkdir(parents=True, exist_ok=True)
        state = config_state(home, source)
        if state in ("absent", "outdated"):
            _write_atomically(home / CONFIG_NAME, source.read_bytes())
        if state != "edited":
            _write_atomically(home / SHIPPED_HASH_NAME, _sha256(source).encode())
    os.environ["DAGSTER_HOME"] = str(home)
    return home


def environment_with(extra: Mapping[str, str]) -> dict[str, str]:
    """This process's environment and `extra`, for a child."""
    return {**os.environ, **extra}


def _write_atomically(path: Path, data: bytes) -> None:
    if path.is_file() and path.read_bytes() == data:
        return
    # Commands may start at the same time; each needs a temporary name of its own.
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    temporary.write_bytes(data)
    temporary.replace(path)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
