"""A place for people in the gateway's application, as values: where it is, who may enter, what stands there."""

from dataclasses import dataclass
from typing import Any

from starlette.routing import compile_path
from starlette.types import ASGIApp

from finetune_platform.serving.permissions import Permission


@dataclass(frozen=True)
class Site:
    """One of them.

    Attributes:
        path: Where it begins, without a slash at its end.
        title: What people call it.
        purpose: What one does there, for the sign-in page.
        needed: The permission without which nobody signs in.
        role: The role that the sign-in page tells people to ask for.
        roles: Every role that may enter, in words.
        pages: What can be opened below `path`, such as `/rows` or `/{task}`; people begin at the first.
        content: Handed on to the pages.
        answered_apart: What follows `path` where the application has endpoints of its own; "" where it has none.
        own: What answers for the pages; None: the pages' framework.
    """

    path: str
    title: str
    purpose: str
    needed: Permission
    role: str
    roles: str
    pages: tuple[str, ...]
    content: Any
    answered_apart: str = ""
    own: ASGIApp | None = None

    @property
    def word(self) -> str:
        """Its path without slashes, by which its cookie and its secret are called."""
        return self.path.strip("/")

    @property
    def cookie(self) -> str:
        return f"finetune_{self.word}"

    @property
    def first(self) -> str:
        """Where people begin."""
        return self.path + self.pages[0]

    @property
    def login(self) -> str:
        return f"{self.path}/login"

    def has(self, path: str) -> bool:
        """Whether a page can be opened there, below `self.path`."""
        return any(compile_path(page)[0].match(path) for page in self.pages)
