"""Functions of the user's own that a task file names as `package.module:function`."""

import importlib
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

from finetune_platform.errors import BadInput
from finetune_platform.identity import content_id


class UserFunction(NamedTuple):
    """A function and the id of the source that it stands in: it changes when the function may."""

    call: Callable[..., Any]
    source_id: str


def user_function(named: str, place: str) -> UserFunction:
    """The function of that name.

    Args:
        named: `package.module:function`.
        place: Where the task file says so.

    Raises:
        BadInput: There is none.
    """
    module_name, _, function_name = named.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise BadInput(f"{place}: {named}: {error}", "make the module importable where the platform runs") from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise BadInput(f"{place}: {named}: {module_name} has no function {function_name}", "correct the name")
    return UserFunction(function, content_id("cm", inspect.getsource(module)))
