"""What every part of a task file is: a strict model, and words for a user who wrote another key than it has."""

import difflib
import re
from collections.abc import Sequence
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict


class Strict(BaseModel):
    """A part of the task file: unknown keys are errors, values are not coerced across types."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def nearest(word: str, known: Sequence[str]) -> str:
    """`; did you mean "…"?` for a word that nearly is one of `known`, else nothing."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f'; did you mean "{close[0]}"?' if close else ""


def checked_regex(pattern: str | None) -> str | None:
    """The pattern itself, if it compiles.

    Raises:
        ValueError: It does not; with the reason.
    """
    if pattern is not None:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from error
    return pattern


def checked_cron(cron: str) -> str:
    """The expression itself, if it has a cron expression's five fields.

    Raises:
        ValueError: It has not.
    """
    if len(cron.split()) != 5:
        raise ValueError(f'"{cron}" is not a five-field cron expression such as "0 3 * * 1"')
    return cron


Cron = Annotated[str, AfterValidator(checked_cron)]
