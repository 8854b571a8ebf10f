"""How the library's failures end a Dagster step: the problem and its mend as the description, retries by type."""

from collections.abc import Iterator
from contextlib import contextmanager

from dagster import Failure, MetadataValue

from finetune_platform.errors import FinetuneError, TransientError


def failure(error: FinetuneError) -> Failure:
    """The Dagster failure of an error that a user can mend; only transient ones may be retried."""
    return Failure(
        description=str(error),
        metadata={"problem": error.problem, "mend": MetadataValue.text(error.mend), "type": type(error).__name__},
        allow_retries=isinstance(error, TransientError),
    )


@contextmanager
def user_failures() -> Iterator[None]:
    """Turns the library's errors inside the block into failures of the step."""
    try:
        yield
    except FinetuneError as error:
        raise failure(error) from error
