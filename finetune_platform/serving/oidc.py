"""People by OpenID Connect: a bearer token, signed by the identity provider, becomes a `Person`.

Signing keys come from the provider's own discovery document and from nowhere else; a thread fetches them, so that no
request waits for the provider. Which requests a person may make is `callers.py`'s business.
"""

import binascii
import hashlib
import json
import logging
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from cryptography.exceptions import UnsupportedAlgorithm
from joserfc import jwt
from joserfc.errors import JoseError, SecurityWarning
from joserfc.jwk import ECKey, Key, OKPKey, RSAKey, import_key
from joserfc.jws import JWSRegistry
from joserfc.util import urlsafe_b64decode

from finetune_platform.errors import Unreachable
from finetune_platform.serving.permissions import EVERY_TASK, ROLES

ALGORITHMS = ("RS256", "PS256", "ES256", "EdDSA")
"""Signatures that are taken. None of them has a secret that a verifier shares."""

LEEWAY_S = 60
REFRESH_S = 300.0
MIN_INTERVAL_S = 10.0
"""At most one fetch in this time, whatever tokens come: unknown key ids are free to make up."""

MAX_KEYS_AGE_S = 24 * 3600.0
"""A key that the provider withdrew must not be good for ever because the provider cannot be reached."""

FETCH_TIMEOUT_S = 5.0
MAX_DOCUMENT_BYTES = 1024 * 1024
MIN_RSA_BITS = 2048
DISCOVERY = "/.well-known/openid-configuration"
TASKS_CLAIM = "tasks"
NAME_CLAIMS = ("preferred_username", "email", "name", "sub")
SUBJECT_LENGTH = 100

log = logging.getLogger(__name__)

# RFC 9864 renames EdDSA for this curve; providers go on to write the old name, and the warning is for them.
warnings.filterwarnings("ignore", message="EdDSA is deprecated", category=SecurityWarning)


class BadToken(Exception):
    """A token that proves nothing; the text is for the log, not for its sender."""


class KeysAwaited(Exception):
    """The keys that could tell are being fetched: the same token may be good in a second."""


class Person(NamedTuple):
    """Whom a token speaks for: `id` is a hash that may stand in records, `actor` names the person in the audit log."""

    id: str
    actor: str
    name: str
    roles: tuple[str, ...]
    tasks: tuple[str, ...]


class People:
    """Everybody whom one identity provider vouches for.

    Args:
        issuer: The provider, exactly as `iss` and its discovery document name it.
        audience: What the provider calls this gateway: a token made for another application is refused.
        roles_claim: Claim with the person's roles, as one name or as a path: `realm_access.roles`.
        fetch: From a URL to its JSON object; raises `Unreachable`.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        issuer: str,
        audience: str,
        roles_claim: str = "roles",
        fetch: Callable[[str], dict[str, Any]] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._issuer, self._audience, self._roles_claim = issuer, audience, roles_claim
        self._fetch, self._clock = fetch or fetch_json, clock
        self._keys: Mapping[str | None, Key] = {}
        self._fetched_at = self._tried_at = float("-inf")
        self._wanted, self._ending = threading.Event(), threading.Event()
        self._registry = JWSRegistry(algorithms=ALGORITHMS, strict_check_header=False)
        self._claims = jwt.JWTClaimsRegistry(
            leeway=LEEWAY_S,
            iss={"essential": True, "value": issuer},
            aud={"essential": True, "value": audience},
            sub={"essential": True},
            exp={"essential": True},
        )
        self._thread = threading.Thread(target=self._run, name="oidc-keys", daemon=True)

    def start(self) -> None:
        """Begins to fetch the provider's keys; nobody waits for them."""
        self._wanted.set()
        self._thread.start()

    def stop(self) -> None:
        self._ending.set()
        self._wanted.set()
        if self._thread.is_alive():
            self._thread.join()

    def recognise(self, token: str) -> Person:
        """Whom a token speaks for.

        Raises:
            BadToken: It proves nothing.
            KeysAwaited: It is signed by a key that is not known yet, and the keys are being fetched.
        """
        header = _header(token)
        key = self._key(header)
        try:
            claims = jwt.decode(token, key, registry=self._registry).claims
            self._claims.validate(claims)
        except (JoseError, ValueError, TypeError, RecursionError) as error:
            raise BadToken(f"{type(error).__name__}: {error}") from error
        return self._person(claims)

    def refresh(self) -> None:
        """Fetches the provider's keys now.

        Raises:
            Unreachable: It does not answer, or not with what a provider has to say; the keys at hand stay.
        """
        self._tried_at = self._clock()
        document = self._fetch(self._issuer.rstrip("/") + DISCOVERY)
        if document.get("issuer") != self._issuer:
            raise Unreachable(
                f"{self._issuer}: its discovery document names the issuer {str(document.get('issuer'))[:200]!r}",
                "set OIDC_ISSUER to exactly what the provider calls itself",
            )
        address = document.get("jwks_uri")
        if not isinstance(address, str) or not is_safe_address(address, self._issuer):
            raise Unreachable(f"{self._issuer}: jwks_uri is not an https address", "correct the provider")
        self._keys = _signing_keys(self._fetch(address))
        self._fetched_at = self._clock()

    def _key(self, header: Mapping[str, Any]) -> Key:
        now_s = self._clock()
        if now_s - self._fetched_at <= MAX_KEYS_AGE_S:
            key = self._keys.get(header.get("kid"))
            if key is not None:
                return key
        if self._wanted.is_set() or now_s - self._tried_at >= MIN_INTERVAL_S:
            self._wanted.set()
            raise KeysAwaited
        if now_s - self._fetched_at > MAX_KEYS_AGE_S:
            raise KeysAwaited  # without the provider's keys nobody can say that this one is not among them
        raise BadToken("signed by an unknown key")

    def _run(self) -> None:
        away = False
        # Looked at after every `clear`, which may have taken the wake-up call of `stop`.
        while not self._ending.is_set():
            self._wanted.wait(REFRESH_S)
            if self._ending.is_set():
                return
            try:
                self.refresh()
            except Unreachable as error:
                if not away:
                    log.warning("sign-in keys cannot be fetched: %s", error)
                away = True
            else:
                if away:
                    log.warning("sign-in keys are fetched again")
                away = False
            finally:
                self._wanted.clear()

    def _person(self, claims: Mapping[str, Any]) -> Person:
        subject = claims["sub"]
        if not subject or not subject.isprintable():
            raise BadToken("sub is not a name")
        digest = hashlib.sha256(f"{self._issuer}\0{subject}".encode("utf-8", "surrogatepass")).hexdigest()[:16]
        # The log's column is bounded; a name cut short must still be one person's.
        told = subject if len(subject) <= SUBJECT_LENGTH else f"{subject[: SUBJECT_LENGTH - 17]}~{digest}"
        roles = [role for role in ROLES if role in words(claim_at(claims, self._roles_claim))]
        tasks = words(claims[TASKS_CLAIM]) if TASKS_CLAIM in claims else (EVERY_TASK,)
        return Person(f"oidc-{digest}", f"oidc:{told}", _name(claims), tuple(roles), tuple(tasks))


def claim_at(claims: Mapping[str, Any], path: str) -> Any:
    """The claim of that name, or at that path of names joined by dots; None where there is none."""
    if path in claims:
        return claims[path]
    found: Any = claims
    for name in path.split("."):
        if not isinstance(found, Mapping) or name not in found:
            return None
        found = found[name]
    return found


def words(value: Any) -> Sequence[str]:
    """A claim as words: a list of text, or one text with spaces between; nothing where it is neither."""
    if isinstance(value, str):
        return value.split()
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return value
    return ()


def is_safe_address(address: str, issuer: str) -> bool:
    """Whether keys may be fetched from there: by https, unless the issuer itself is an http address."""
    return address.startswith("https://") or (issuer.startswith("http://") and address.startswith("http://"))


def fetch_json(url: str) -> dict[str, Any]:
    """A JSON object from the provider.

    Raises:
        Unreachable: It does not answer in time, or with something else.
    """
    import requests

    mend = "check OIDC_ISSUER, and that this machine reaches the provider"
    try:
        with requests.get(url, timeout=FETCH_TIMEOUT_S, allow_redirects=False, stream=True) as response:
            if response.status_code != 200:
                raise Unreachable(f"{url}: answers {response.status_code}", mend)
            body = b""
            for piece in response.iter_content(65536):
                body += piece
                if len(body) > MAX_DOCUMENT_BYTES:
                    raise Unreachable(f"{url}: answers more than {MAX_DOCUMENT_BYTES} bytes", mend)
        found = json.loads(body)
    except (requests.RequestException, OSError, ValueError, RecursionError) as error:
        raise Unreachable(f"{url}: {type(error).__name__}", mend) from error
    if not isinstance(found, dict):
        raise Unreachable(f"{url}: its answer is no JSON object", mend)
    return found


def _header(token: str) -> dict[str, Any]:
    """The header of a token that could be one: only then are keys looked up, or fetched."""
    parts = token.split(".")
    if len(parts) != 3 or not all(parts):
        raise BadToken("not a signed token")
    try:
        header = json.loads(urlsafe_b64decode(parts[0].encode("ascii")))
    except (binascii.Error, ValueError, RecursionError) as error:
        raise BadToken("the header is not JSON") from error
    if not isinstance(header, dict) or header.get("alg") not in ALGORITHMS or "crit" in header:
        raise BadToken("the header names no algorithm that is taken")
    if not isinstance(header.get("kid"), str | None):
        raise BadToken("kid is not text")
    return header


def _signing_keys(document: Mapping[str, Any]) -> dict[str | None, Key]:
    """Keys by their id; the only key also stands for tokens that name none."""
    found: dict[str | None, Key] = {}
    listed = document.get("keys")
    for data in listed if isinstance(listed, list) else []:
        key = _signing_key(data)
        if key is not None:
            found[data.get("kid")] = key
    if len(found) == 1:
        found[None] = next(iter(found.values()))
    elif None in found:
        del found[None]
    if not found:
        raise Unreachable(
            "the provider lists no signing key that is taken", f"it needs one for {', '.join(ALGORITHMS)}"
        )
    return found


def _signing_key(data: Any) -> Key | None:
    """One of the provider's keys; None for one of another kind or use: a provider lists what it likes."""
    if not isinstance(data, dict) or data.get("use", "sig") != "sig" or not isinstance(data.get("kid"), str | None):
        return None
    try:
        key = import_key(data)
        return key if _is_taken(key, data.get("crv")) else None
    except (JoseError, UnsupportedAlgorithm, ValueError, TypeError, KeyError) as error:
        log.debug("a signing key is not taken: %s", error)
        return None


def _is_taken(key: Key, curve: Any) -> bool:
    if isinstance(key, RSAKey):
        return key.public_key.key_size >= MIN_RSA_BITS
    if isinstance(key, ECKey):
        # Looked at for its errors: a point that is not on the curve shows only now.
        return curve == "P-256" and bool(key.public_key)
    return isinstance(key, OKPKey) and curve == "Ed25519" and bool(key.public_key)


def _name(claims: Mapping[str, Any]) -> str:
    named = (claims[claim] for claim in NAME_CLAIMS if isinstance(claims.get(claim), str) and claims[claim])
    return "".join(c for c in next(named, "") if c.isprintable())[:128]
