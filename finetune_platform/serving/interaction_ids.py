"""Interaction ids: which arm and adapter answered, readable, and sealed so that nobody can vote on what never was.

`in-k-c9b897350278-4f…-a1…`: arm, adapter, random part, seal. The seal is a keyed hash over task and tenant too.
"""

import hashlib
import hmac
import random
import secrets
from collections.abc import Iterable
from typing import NamedTuple

from finetune_platform.database import Database
from finetune_platform.database_engine import serialize
from finetune_platform.serving.plan import ARMS, BASE, Arm
from finetune_platform.serving.tables import InstallationSecret

LETTERS: dict[Arm, str] = {"champion": "c", "canary": "k", "shadow": "s", "base": "b", "tenant": "t", "fallback": "f"}
LETTERS_ONLY = str.maketrans("0123456789", "ghijklmnop")
SECRET_NAME = "interaction_seal"
ADAPTER_PREFIX = "ad-"


class Answered(NamedTuple):
    """What an id says."""

    task: str
    arm: Arm
    adapter: str


class InteractionIds:
    """Makes and reads ids.

    Args:
        secret: What all gateways of an installation share.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        # Unlike the system's source of randomness it never lets another thread in between.
        self._random = random.Random(secrets.randbits(256))

    def new(self, task: str, arm: Arm, adapter: str | None, tenant: str = "") -> str:
        """A fresh id for an answer to a tenant ("": none)."""
        short = (adapter or BASE).removeprefix(ADAPTER_PREFIX)
        body = f"{LETTERS[arm]}-{short}-{self._random.getrandbits(64):016x}"
        return f"in-{body}-{self._seal(task, tenant, body)}"

    def session(self) -> str:
        """A fresh name for the session of a caller who names none; of letters, so that nothing in it looks personal."""
        return f"{self._random.getrandbits(80):020x}".translate(LETTERS_ONLY)

    def read(self, interaction_id: str, tasks: Iterable[str], tenant: str = "") -> Answered | None:
        """What an id says, if one of `tasks` gave it out to this tenant; None else.

        Args:
            tasks: Those that the asker may speak of.
            tenant: The one that the asker speaks for.
        """
        head, _, seal = interaction_id.rpartition("-")
        body = head.removeprefix("in-")
        letter, _, rest = body.partition("-")
        arm = next((a for a in ARMS if LETTERS[a] == letter), None)
        if arm is None or body == head:
            return None
        for task in tasks:
            if hmac.compare_digest(self._seal(task, tenant, body).encode(), seal.encode("utf-8", "replace")):
                short = rest.rpartition("-")[0]
                return Answered(task, arm, BASE if short == BASE else f"{ADAPTER_PREFIX}{short}")
        return None

    def _seal(self, task: str, tenant: str, body: str) -> str:
        text = f"{task}\0{tenant}\0{body}".encode("utf-8", "replace")
        return hashlib.blake2b(text, key=self._secret, digest_size=8).hexdigest()


def installation_secret(database: Database, name: str = SECRET_NAME) -> bytes:
    """The secret of that name, made by the first who asks."""
    with database.session() as session:
        serialize(session.connection())
        row = session.get(InstallationSecret, name)
        if row is None:
            row = InstallationSecret(name=name, value=secrets.token_hex(32))
            session.add(row)
        return bytes.fromhex(row.value)
