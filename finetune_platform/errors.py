"""The failures a person meets, as types: what went wrong, where, and the mend.

Permanent failures (a bad row, a wrong key) are never retried; transient ones (a server away) may be.
Only failures that name a place and a mend belong here; bugs stay ordinary exceptions.
"""


class FinetuneError(Exception):
    """A failure that a user can mend.

    Args:
        problem: One sentence with the place (file, line, field) first: `raw/a.jsonl:118: ...`.
        mend: One sentence that says what to change.
    """

    exit_code = 1

    def __init__(self, problem: str, mend: str) -> None:
        super().__init__(f"{problem}\n  mend: {mend}")
        self.problem = problem
        self.mend = mend

    def __reduce__(self) -> tuple[type["FinetuneError"], tuple[str, str]]:
        return type(self), (self.problem, self.mend)


class PermanentError(FinetuneError):
    """The same input fails the same way: do not retry."""


class TransientError(FinetuneError):
    """The surroundings failed (a server away, a disk full): the same command may succeed later."""


class BadInput(PermanentError):
    """Something a user wrote or dropped cannot be read."""

    exit_code = 2


class GatesFailed(PermanentError):
    """The evidence does not let an adapter through: hard gates that failed, or that too few rows could decide."""


class Unreachable(TransientError):
    """A server, bucket or database does not answer."""


class StorageFailed(TransientError):
    """A write could not be completed (disk full, no write access); nothing half-written is left."""
