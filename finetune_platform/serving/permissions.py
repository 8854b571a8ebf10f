"""Roles and what they may do: the one table that the gateway, the command line and the documentation go by."""

from collections.abc import Collection, Mapping
from typing import Literal, get_args

Permission = Literal[
    "answer", "feedback", "read_status", "change_routes", "review", "adjudicate", "read_audit", "manage_keys"
]
Role = Literal["caller", "operator", "reviewer", "lead", "auditor"]

PERMISSIONS: tuple[Permission, ...] = get_args(Permission)
ROLES: tuple[Role, ...] = get_args(Role)

ALLOWED: Mapping[str, frozenset[Permission]] = {
    "caller": frozenset({"answer", "feedback"}),
    "operator": frozenset({"read_status", "change_routes"}),
    "reviewer": frozenset({"review"}),
    "lead": frozenset({"review", "adjudicate"}),
    "auditor": frozenset({"read_status", "read_audit"}),
}
"""`manage_keys` belongs to no role: a key that could make keys could give itself every other right. Whoever can write
to the database has it, through `finetune key`."""

EVERY_TASK = "*"


def allows(roles: Collection[str], permission: Permission) -> bool:
    """Whether one of `roles` has a permission."""
    return any(permission in ALLOWED.get(role, ()) for role in roles)
