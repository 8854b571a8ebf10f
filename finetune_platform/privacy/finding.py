"""One place in a text that holds something personal or secret, the kinds there are, and what is put there instead."""

import re
from typing import Literal, NamedTuple

Kind = Literal["email", "phone", "card", "iban", "ip", "credentials", "private_key", "token", "secret"]
"""`credentials` are user and password inside a URL, `token` what its own form gives away (`ghp_…`, a JWT), `secret`
what the name before it gives away (`password=…`)."""

PLACEHOLDER = re.compile(r"\[([A-Z][A-Z_]*)_([1-9][0-9]{0,8})\]")


class Finding(NamedTuple):
    """What was found: `text[start:end]`, counted in characters."""

    kind: Kind
    start: int
    end: int
