"""What a disk or a bucket says, as errors that name the place and the mend.

Only the translation belongs here; who writes what belongs to `lake.py` and to those who write local files.
"""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from finetune_platform.errors import FinetuneError, StorageFailed, Unreachable


@contextmanager
def disk_failures(place: Path) -> Iterator[None]:
    """Writes to the local file or folder `place` stand inside.

    Raises:
        StorageFailed: In place of any `OSError`.
    """
    try:
        yield
    except OSError as error:
        raise disk_failure(place, error) from error


def disk_failure(place: Path, error: BaseException) -> StorageFailed:
    """A failed access to a disk, by the system's error number."""
    number = error_number(error)
    if number in (errno.ENOSPC, errno.EDQUOT):
        return StorageFailed(f"{place}: the disk is full", "free some space there and run the same command again")
    if number == errno.EFBIG:
        return StorageFailed(f"{place}: larger than this process may write", "raise its file size limit (ulimit -f)")
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return StorageFailed(f"{place}: no access", "give this user the right to write there, or name another folder")
    if number in (errno.ENOTDIR, errno.EISDIR, errno.EEXIST):
        return StorageFailed(f"{place}: a file stands where a folder is needed", "move it, or name another folder")
    return StorageFailed(
        f"{place}: {first_line(error)}", "check that the folder can be made there and the disk is healthy"
    )


def bucket_failure(place: str, error: BaseException) -> Unreachable:
    """A refused or unanswered request to the URL `place`, by what the server or its client said."""
    told = str(error)
    plain = re.sub(r"\x1b\[\d+m|↳", "", told.split("Debug source:")[0])
    reason = " ".join(plain.split())[:400]
    if "NoSuchBucket" in told:
        return Unreachable(f"{place}: there is no such bucket", "create it, or correct the bucket's name")
    if "169.254.169.254" in told or "169.254.170." in told:
        return Unreachable(
            f"{place}: no credentials were found", "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        )
    if any(sign in told for sign in ("403 Forbidden", "401 Unauthorized", "lacked the necessary privileges")):
        return Unreachable(
            f"{place}: the server refused the credentials ({reason})",
            "check the access key, its secret, and its right to read and write there",
        )
    return Unreachable(
        f"{place}: the server does not answer ({reason})",
        "check that it runs, the network, and AWS_ENDPOINT_URL where it is not Amazon's own; then run again",
    )


def storage_failure(place: str | Path, error: BaseException) -> FinetuneError:
    """`disk_failure` for a path, `bucket_failure` for a URL."""
    return disk_failure(place, error) if isinstance(place, Path) else bucket_failure(place, error)


def error_number(error: BaseException) -> int:
    """The system's error number, which libraries written in Rust tell in words only; 0 where there is none."""
    told = re.search(r"\(os error (\d+)\)|Os \{ code: (\d+)", str(error))
    if told is not None:
        return int(told[1] or told[2])
    return (isinstance(error, OSError) and error.errno) or 0


def first_line(error: BaseException) -> str:
    """The first line of what an error says; its type where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
