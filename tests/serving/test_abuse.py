"""What an attacker tries against the running gateway, over real HTTP: each of it is refused or contained.

One gateway meets all of it, with a real server of models and a real identity provider behind it; at the end its audit
log still verifies.
"""

import json
import logging
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from answering_engine import AnsweringEngine, Manner
from echo_upstream import TELL, WAIT, EchoUpstream
from gateway_server import Running, running_gateway
from identity_provider import AUDIENCE, IdentityProvider, new_key, raw_token
from joserfc import jwt
from joserfc.jwk import OctKey
from logged_rows import interaction
from sqlalchemy import text

from finetune_platform import audit
from finetune_platform.database import Database
from finetune_platform.inference.chat import LoadedAdapter
from finetune_platform.lake import Lake
from finetune_platform.serving import bounded_http
from finetune_platform.serving import requests as gateway_requests
from finetune_platform.serving.keys import create_key, revoke_key, rotate_key
from finetune_platform.serving.limits import Limits
from finetune_platform.serving.routes import edited
from finetune_platform.settings import Settings
from finetune_platform.task_file import load_task

# One gateway for all: its log and audit log are what these tests left together.
pytestmark = pytest.mark.xdist_group("abuse")

TASK, OTHER = "ticket_topics", "letters"
ACME = "ad-acae00000001"
UPSTREAM_KEY = "sk-upstream-0123456789abcdef"
MADE_UP = "ftk_00000000_" + "A" * 43
CHAT = "/v1/chat/completions"


@dataclass
class House:
    """The gateway, what stands behind it, and every secret that no answer may hold."""

    running: Running
    upstream: EchoUpstream
    provider: IdentityProvider
    place: Settings
    secrets: set[str] = field(default_factory=lambda: {UPSTREAM_KEY})
    keys: dict[str, str] = field(default_factory=dict)

    @property
    def database(self) -> Database:
        return self.running.gateway.database

    @property
    def address(self) -> tuple[str, int]:
        url = urlsplit(self.running.url)
        return str(url.hostname), int(url.port or 0)

    def key(self, *roles: str, **scope: Any) -> str:
        """One of this scope, always the same."""
        name = repr((roles, scope))
        if name not in self.keys:
            self.keys[name] = self.new_key(*roles, **scope)
        return self.keys[name]

    def new_key(self, *roles: str, **scope: Any) -> str:
        key = self.running.key(*roles, **scope)
        self.secrets.add(key)
        return key

    def ask(self, method: str, path: str, key: str | None = None, **how: Any) -> requests.Response:
        """Sends a request; whatever comes back holds no secret and no header of the sender's making."""
        headers = {**({} if key is None else {"authorization": f"Bearer {key}"}), **how.pop("headers", {})}
        answer = requests.request(
            method, self.running.url + path, headers=headers, timeout=20, allow_redirects=False, **how
        )
        told = answer.text + repr(answer.headers)
        assert not [secret for secret in self.secrets if secret in told]
        assert "set-cookie" not in answer.headers and "x-injected" not in answer.headers
        if answer.status_code >= 400 and path.startswith(("/v1", "/operator/v1")) and method != "HEAD":
            assert answer.json()["error"].keys() == {"message", "type", "param", "code"}
        return answer

    def chat(self, prompt: str = "hello", model: str = TASK, key: str | None = None, **how: Any) -> requests.Response:
        body = {"model": model, "messages": [{"role": "user", "content": prompt}], **how.pop("body", {})}
        return self.ask("POST", CHAT, key or self.key(), json=body, **how)

    def raw(self, *pieces: bytes, pause_s: float = 0.0, wait_s: float = 5.0) -> bytes:
        """Sends bytes; all that comes back until the gateway hangs up, which it must within `wait_s`."""
        with socket.create_connection(self.address, timeout=wait_s) as connection:
            for piece in pieces:
                connection.sendall(piece)
                time.sleep(pause_s)
            return read_all(connection)

    def is_well(self) -> None:
        assert text_of(self.chat("still there")) == "still there"


def read_all(connection: socket.socket) -> bytes:
    """All until the gateway hangs up; a connection that stays open is a `TimeoutError`."""
    found = b""
    try:
        while piece := connection.recv(65536):
            found += piece
    except ConnectionError:
        pass
    return found


def text_of(answer: requests.Response) -> str:
    assert answer.status_code == 200, answer.text
    return str(answer.json()["choices"][0]["message"]["content"])


def head(method: str, path: str, *lines: str, key: str = MADE_UP) -> bytes:
    return "\r\n".join(
        [f"{method} {path} HTTP/1.1", "host: gateway", f"authorization: Bearer {key}", *lines, "", ""]
    ).encode("latin-1")


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, task_file_in: Any) -> Iterator[House]:
    """Two tasks: one is answered by a real server, the other has an adapter for the tenant acme alone."""
    home = tmp_path_factory.mktemp("home")
    upstream, provider = EchoUpstream(), IdentityProvider()
    provider.keys["k1"] = new_key("ES256", "k1")
    place = Settings(
        finetune_home=home,
        lake_url=str(home / "lake"),
        database_url=f"sqlite:///{home / 'finetune.db'}",
        tasks_dir=home / "tasks",
        upstream_api_keys={"up": UPSTREAM_KEY},
        oidc_issuer=provider.issuer,
        oidc_audience=AUDIENCE,
    )
    behind = {"kind": "openai", "urls": [upstream.url], "model": "echo", "api_key": "up"}
    task = load_task(task_file_in(place.tasks_dir, serving={"engine": behind, "log_share": 1.0}))
    other = load_task(task_file_in(place.tasks_dir, name=OTHER, serving={"log_share": 1.0}))
    engine = AnsweringEngine({None: Manner(("base",)), ACME: Manner(("acme's own",))})
    with running_gateway(place, [task, other], {OTHER: engine}) as running:
        gateway = running.gateway
        engine.adapters[ACME] = LoadedAdapter(ACME, Path())
        gateway.tasks[OTHER].prompts[ACME] = "acme's prompt"
        gateway.watch.apply(
            OTHER, lambda plan: edited(plan, tenants={"acme": ACME}), "test", "route.tenant", "acme pays for it"
        )
        yield House(running, upstream, provider, place)
    upstream.stop()
    provider.stop()


# Who asks


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": ""},
        {"authorization": "Bearer"},
        {"authorization": "Bearer  "},
        {"authorization": "{key}"},
        {"authorization": "Basic {key}"},
        {"authorization": "Token {key}"},
        {"authorization": "Bearer {key}x"},
        {"authorization": "Bearer {key} {key}"},
        {"authorization": "Bearer {key},Bearer {key}"},
        {"authorization": "Bearer " + MADE_UP},
        {"authorization": "Bearer " + "a" * 20_000},
        {"authorization": b"Bearer ftk_\xff\xfe"},
        {"x-api-key": "{key}"},
        {"api-key": "{key}"},
        {"cookie": "authorization=Bearer {key}"},
        {"proxy-authorization": "Bearer {key}"},
    ],
    ids=lambda headers: repr(headers)[:40],
)
def test_without_a_right_credential_in_its_place_nothing_is_told(house: House, headers: dict[str, Any]) -> None:
    key = house.key()
    sent = {n: v.replace("{key}", key) if isinstance(v, str) else v for n, v in headers.items()}
    for method, path in (("GET", f"/v1/models?api_key={key}"), ("POST", CHAT), ("GET", "/operator/v1/tasks")):
        answer = house.ask(method, path, headers=sent, data=b"{}" if method == "POST" else None)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("Bearer")


def test_a_key_with_one_letter_changed_is_as_unknown_as_one_made_up(house: House) -> None:
    key = house.key()
    changed = key[:-1] + ("A" if key[-1] != "A" else "B")
    told = [house.ask("GET", "/v1/models", wrong) for wrong in (changed, MADE_UP, f"{key[:13]}{MADE_UP[13:]}")]
    assert {answer.status_code for answer in told} == {401}
    assert len({answer.text for answer in told}) == 1


def test_a_revoked_key_is_refused_within_a_second(house: House) -> None:
    key = house.new_key()
    assert house.ask("GET", "/v1/models", key).status_code == 200
    revoke_key(house.database, key[4:12], "test", "it leaked")
    time.sleep(1.0)
    assert house.ask("GET", "/v1/models", key).status_code == 401


def test_an_expired_key_is_refused(house: House) -> None:
    ends = datetime.now(UTC) + timedelta(seconds=1.0)
    scope = {"name": "brief", "roles": ["caller"], "tasks": ["*"], "known_tasks": [TASK], "actor": "test"}
    key, _ = create_key(house.database, **scope, expires_at=ends)  # type: ignore[arg-type]
    house.running.gateway.directory.look()
    assert house.ask("GET", "/v1/models", key).status_code == 200
    time.sleep(1.1)
    assert house.ask("GET", "/v1/models", key).status_code == 401


def test_the_old_half_of_a_rotated_key_is_refused(house: House) -> None:
    old = house.new_key()
    new, _ = rotate_key(house.database, old[4:12], "test")
    house.running.gateway.directory.look()
    assert [house.ask("GET", "/v1/models", key).status_code for key in (old, new)] == [401, 200]


@pytest.mark.parametrize(
    ("role", "method", "path"),
    [
        ("caller", "GET", "/operator/v1/tasks"),
        ("caller", "GET", f"/operator/v1/tasks/{TASK}/history"),
        ("caller", "POST", f"/operator/v1/tasks/{TASK}/kill"),
        ("auditor", "POST", CHAT),
        ("auditor", "POST", "/v1/completions"),
        ("auditor", "POST", f"/operator/v1/tasks/{TASK}/kill"),
        ("auditor", "POST", "/v1/feedback"),
        ("reviewer", "POST", CHAT),
        ("reviewer", "GET", "/operator/v1/tasks"),
        ("reviewer", "POST", "/v1/feedback"),
        ("operator", "POST", CHAT),
        ("operator", "GET", "/v1/models"),
        ("operator", "POST", "/v1/feedback"),
    ],
)
def test_a_key_without_the_role_is_refused(house: House, role: str, method: str, path: str) -> None:
    body = {"model": TASK, "messages": [{"role": "user", "content": "x"}], "reason": "x", "interaction_id": "in-x"}
    assert house.ask(method, path, house.key(role), json=body).status_code == 403
    assert house.running.gateway.watch.plan(TASK).killed is None


def test_a_task_that_a_key_is_not_for_does_not_exist_for_it(house: House) -> None:
    key = house.key("caller", "operator", "auditor", tasks=[OTHER])
    answer = house.chat(model=TASK, key=key)
    unknown = house.chat(model="tacket_topics", key=key)
    assert answer.status_code == unknown.status_code == 404
    assert answer.text.replace(TASK, "T") == unknown.text.replace("tacket_topics", "T")
    assert house.ask("GET", f"/v1/models/{TASK}", key).status_code == 404
    assert house.ask("GET", f"/operator/v1/tasks/{TASK}/history", key).status_code == 404
    assert house.ask("POST", f"/operator/v1/tasks/{TASK}/kill", key, json={"reason": "x"}).status_code == 404
    assert TASK not in house.ask("GET", "/v1/models", key).text + house.ask("GET", "/operator/v1/tasks", key).text


def _signed(house: House, **changes: Any) -> str:
    return house.provider.token("k1", "ES256", **{"roles": ["caller"], **changes})


TOKENS: dict[str, Callable[[House], str]] = {
    "alg none": lambda h: raw_token({"alg": "none", "kid": "k1"}, h.provider.claims(roles=["caller"]), b""),
    "alg None": lambda h: raw_token({"alg": "None", "kid": "k1"}, h.provider.claims(roles=["caller"]), b""),
    "a secret made of the public key": lambda h: jwt.encode(
        {"alg": "HS256", "kid": "k1"},
        h.provider.claims(roles=["caller"]),
        OctKey.import_key(json.dumps(h.provider.keys["k1"].as_dict(private=False))),
        registry=jwt.JWSRegistry(algorithms=["HS256"]),
    ),
    "another issuer": lambda h: _signed(h, iss="https://id.example.com"),
    "another audience": lambda h: _signed(h, aud="another-application"),
    "no audience": lambda h: _signed(h, aud=None),
    "expired": lambda h: _signed(h, exp=int(time.time()) - 120),
    "no expiry": lambda h: _signed(h, exp=None),
    "not yet": lambda h: _signed(h, nbf=int(time.time()) + 3600),
    "somebody else's key": lambda h: h.provider.token("k1", "ES256", key=new_key("ES256", "k1"), roles=["caller"]),
    "a key that the token brings": lambda h: h.provider.token(
        "k1", "ES256", header={"jwk": new_key("ES256", "k1").as_dict(private=False)}, key=new_key("ES256", "k1")
    ),
    "three dots": lambda h: "...",
    "no JSON": lambda h: raw_token(b"x", b"y"),
}


def test_a_token_of_the_identity_provider_is_good(house: House) -> None:
    assert text_of(house.chat("I am a person", key=_signed(house))) == "I am a person"
    assert house.chat(key=_signed(house, roles=[])).status_code == 403


@pytest.mark.parametrize("forged", TOKENS)
def test_a_token_that_proves_nothing_is_refused(house: House, forged: str) -> None:
    assert house.ask("GET", "/v1/models", TOKENS[forged](house)).status_code == 401


# Other people's adapters and answers


@pytest.mark.parametrize("name", [ACME, f"{OTHER}/{ACME}", f"{OTHER}:{ACME}", f"{OTHER}@acme", f"{OTHER} ", "acme"])
def test_another_tenants_adapter_has_no_name(house: House, name: str) -> None:
    answer = house.chat(model=name, key=house.key(tenant="globex"))
    assert answer.status_code == 404 and "acme's own" not in answer.text


@pytest.mark.parametrize(
    "how",
    [
        {"headers": {"x-tenant": "acme", "x-finetune-tenant": "acme", "tenant": "acme", "openai-organization": "acme"}},
        {"headers": {"x-finetune-adapter": ACME, "x-finetune-interaction": f"in-t-{ACME[3:]}-0-0"}},
        {"headers": {"x-session-id": "acme/session-1"}},
        {"body": {"metadata": {"session_id": "acme/session-1", "tenant": "acme", "adapter": ACME}}},
        {"body": {"user": "acme", "prompt_cache_key": "acme/session-1"}},
    ],
    ids=["tenant header", "adapter header", "session header", "metadata", "user"],
)
@pytest.mark.parametrize("tenant", ["", "globex"])
def test_another_tenants_adapter_is_not_reached(house: House, how: dict[str, Any], tenant: str) -> None:
    assert text_of(house.chat("one", OTHER, house.key(tenant="acme"), headers={"x-session-id": "session-1"})) != "base"
    answer = house.chat("one", OTHER, house.key(tenant=tenant), **how)
    assert text_of(answer) == "base" and answer.headers["x-finetune-adapter"] == "base"


@pytest.mark.parametrize("named", ["tenant", "adapter", "adapter_id", "lora", "lora_request", "arm", "extra_body"])
def test_a_field_that_would_name_an_adapter_is_refused(house: House, named: str) -> None:
    answer = house.chat("one", OTHER, body={named: ACME})
    assert answer.status_code == 400 and answer.json()["error"]["param"] == named


def test_nobody_speaks_of_another_tenants_answer(house: House) -> None:
    answer = house.chat("mine", OTHER, house.key(tenant="acme")).json()["id"]

    def say(**scope: Any) -> requests.Response:
        return house.ask("POST", "/v1/feedback", house.key(**scope), json={"interaction_id": answer, "rating": "down"})

    assert [say(tenant="globex").status_code, say().status_code] == [404, 404]
    assert say(tenant="acme", tasks=[TASK]).status_code == 404
    assert say(tenant="acme").json() == {"status": "kept", "counted": True}


@pytest.mark.parametrize(
    "forge",
    [
        lambda real: real[:-1] + ("0" if real[-1] != "0" else "1"),
        lambda real: real.replace("in-b-", "in-c-"),
        lambda real: real.replace("-base-", f"-{ACME[3:]}-"),
        lambda real: real.upper(),
        lambda real: real + "\0",
        lambda real: real + " ",
        lambda real: f"{real[:20]}' OR '1'='1",
        lambda real: "in-b-base-0000000000000000-0000000000000000",
        lambda real: "../" * 20,
        lambda real: "in-b-" + "é" * 40,
        lambda real: "x" * 129,
    ],
)
def test_a_forged_interaction_id_counts_for_nothing(house: House, forge: Callable[[str], str]) -> None:
    key = house.key()
    real = house.chat("mine", OTHER, key).json()["id"]
    forged = {"interaction_id": forge(real), "rating": "up"}
    assert house.ask("POST", "/v1/feedback", key, json=forged).status_code in (400, 404)
    assert house.ask("POST", "/v1/feedback", key, json={"interaction_id": real, "rating": "up"}).json()["counted"]


def test_a_cut_stream_leaves_nothing_for_the_next_caller(house: House) -> None:
    secret = "the launch code is " + " ".join(str(number) for number in range(200))
    mine, theirs = house.new_key(), house.new_key()
    body = {"model": TASK, "stream": True, "messages": [{"role": "user", "content": secret}]}
    for _ in range(5):
        cut = requests.post(
            house.running.url + CHAT, json=body, headers={"authorization": f"Bearer {mine}"}, timeout=10, stream=True
        )
        assert b"the" in next(cut.iter_content(200))
        cut.close()
        assert text_of(house.chat("what did the other one say", key=theirs)) == "what did the other one say"
    eventually(lambda: house.running.gateway.limits.under_way == 0)


def test_two_callers_on_one_connection_get_their_own_answers_in_order(house: House) -> None:
    def one(prompt: str, *lines: str) -> bytes:
        body = json.dumps({"model": TASK, "messages": [{"role": "user", "content": prompt}]}).encode()
        return head("POST", CHAT, f"content-length: {len(body)}", *lines, key=house.new_key()) + body

    came = house.raw(one(WAIT) + one("second") + one("third", "connection: close")).decode()
    assert re.findall('"content":"(wait|second|third)"', came) == ["wait", "second", "third"]
    assert len(set(re.findall('"id":"(in-[^"]+)"', came))) == 3


# Names and paths

NAMES = [
    "../../etc/passwd",
    "..\\..\\windows",
    "%2e%2e%2fticket_topics",
    "%252e%252e%252f",
    "/etc/passwd",
    "ticket_topics/",
    "./ticket_topics",
    "ticket_topics\0",
    "ticket_topics\n",
    "ticket_topics\r\nset-cookie: a=b\r\nx-injected: 1",
    "TICKET_TOPICS",
    "tіcket_topics",  # a Cyrillic letter
    "ｔicket_topics",
    "ticket\u200b_topics",
    "\u202escipot_tekcit",
    "ticket_topics' OR '1'='1",
    "{{7*7}}",
    "${jndi:ldap://127.0.0.1/x}",
    "a" * 128,
    "a" * 100_000,
    "*",
    "__class__",
]


@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name)[:30])
def test_a_tricky_model_name_is_no_model(house: House, name: str) -> None:
    before = len(house.upstream.heard)
    answer = house.chat(model=name)
    assert answer.status_code in (400, 404) and len(answer.text) < 2000
    quoted = "".join(f"%{byte:02x}" for byte in name[:4000].encode())
    for path in (f"/v1/models/{quoted}", f"/operator/v1/tasks/{quoted}/history"):
        assert house.ask("GET", path, house.key("caller", "operator")).status_code == 404
    assert len(house.upstream.heard) == before


@pytest.mark.parametrize(
    "path",
    [
        "/v1/models/../../etc/passwd",
        "/v1/models/..%2f..%2fetc%2fpasswd",
        "/v1/models/%00",
        "/v1/models/%ff%fe",
        "/v1//models",
        "//127.0.0.1/v1/models/x",
        "/operator/v1/tasks/..%2f../kill",
        "/operator/_nicegui/../../v1/models/x",
        "/.git/config",
        "/v1/models/x%0d%0ax-injected:%201",
        "/v1/models/x\r\nx-injected: 1",
        "http://127.0.0.1:1/v1/models/x",
    ],
)
def test_a_tricky_path_leads_nowhere(house: House, path: str) -> None:
    line = head("GET", path, "connection: close", key=house.key("caller", "operator"))
    came = house.raw(line).decode("latin-1")
    status, headers = came.split("\r\n", 1)
    assert status.split()[1] in ("400", "401", "404", "405"), came
    assert "\r\nx-injected" not in headers.split("\r\n\r\n")[0]


@pytest.mark.parametrize("method", ["TRACE", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND"])
@pytest.mark.parametrize("path", [CHAT, "/v1/models", f"/operator/v1/tasks/{TASK}/kill"])
def test_another_method_does_nothing(house: House, method: str, path: str) -> None:
    answer = house.ask(method, path, house.key("caller", "operator"), json={"reason": "x"})
    assert answer.status_code == 405 and "authorization" not in answer.text.lower()


@pytest.mark.parametrize("header", ["x-http-method-override", "x-http-method", "x-method-override"])
def test_a_method_in_a_header_is_not_one(house: House, header: str) -> None:
    path = f"/operator/v1/tasks/{TASK}/kill?_method=POST"
    answer = house.ask("GET", path, house.key("operator"), headers={header: "POST"}, json={"reason": "x"})
    assert answer.status_code == 405 and house.running.gateway.watch.plan(TASK).killed is None


@pytest.mark.parametrize("byte", [b"\r", b"\n", b"\0", b"\x0b", b"\x7f"])
@pytest.mark.parametrize("name", [b"x-session-id", b"x-tenant", b"authorization"])
def test_a_line_break_in_a_header_gets_nowhere(house: House, name: bytes, byte: bytes) -> None:
    body = json.dumps({"model": OTHER, "messages": [{"role": "user", "content": "x"}]}).encode()
    lines = [f"content-length: {len(body)}", "connection: close"]
    sent = head("POST", CHAT, *lines, key=house.key())[:-2] + name + b": a" + byte + b"x-injected: 1\r\n\r\n" + body
    came = house.raw(sent).partition(b"\r\n\r\n")[0].lower()
    assert came.split()[1] in (b"200", b"400", b"401") and b"x-injected" not in came


# More than a request may have


def test_a_body_that_says_it_is_too_large_is_not_read(house: House) -> None:
    began = time.monotonic()
    came = house.raw(head("POST", CHAT, f"content-length: {2**40}", key=house.key()) + b'{"model"')
    assert came.startswith(b"HTTP/1.1 413") and b"connection: close" in came.lower()
    assert time.monotonic() - began < 2


def poured(house: House, begin: bytes, piece: bytes, most: int = 64 * 2**20) -> tuple[int, bytes]:
    """Sends a piece again and again until the gateway hangs up; how many bytes it took, and what it said."""
    sent = 0
    with socket.create_connection(house.address, timeout=5) as connection:
        try:
            connection.sendall(begin)
            while sent < most:
                connection.sendall(piece)
                sent += len(piece)
        except ConnectionError:
            pass
        return sent, read_all(connection)


CHUNK = b"10000\r\n" + b"x" * 65536 + b"\r\n"
BUFFERED = 16 * 2**20
"""What both ends' sockets may hold beside what the gateway reads."""


@pytest.mark.parametrize("right", [True, False], ids=["with a key", "without a key"])
def test_a_body_without_an_end_is_cut_off(house: House, right: bool) -> None:
    begin = head("POST", CHAT, "transfer-encoding: chunked", key=house.key() if right else MADE_UP)
    sent, _ = poured(house, begin, CHUNK)
    assert sent < gateway_requests.MAX_BODY_BYTES + BUFFERED
    house.is_well()


def test_a_body_of_one_byte_too_much_is_told_so(house: House) -> None:
    size = gateway_requests.MAX_BODY_BYTES + 1
    begin = head("POST", CHAT, "transfer-encoding: chunked", key=house.key()) + f"{size:x}\r\n".encode()
    assert house.raw(begin, b"x" * size).startswith(b"HTTP/1.1 413")


def test_a_head_without_an_end_is_cut_off(house: House) -> None:
    for begin, piece in (
        (b"GET /healthz HTTP/1.1\r\nx: ", b"a" * 8192),
        (b"GET /healthz HTTP/1.1\r\n", b"x-a: b\r\n" * 1024),
        (b"GET /", b"a" * 8192),
        (b"POST /v1/feedback HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n1;", b"a" * 8192),
    ):
        sent, _ = poured(house, begin, piece)
        assert sent < BUFFERED, begin
    house.is_well()


@pytest.mark.parametrize(
    "lines", [[f"x-{n}: y" for n in range(300)], ["x: " + "y" * 100_000], ["cookie: " + "a=b; " * 20_000]]
)
def test_too_many_or_too_long_headers_are_refused(house: House, lines: list[str]) -> None:
    came = house.raw(head("GET", "/v1/models", *lines, key=house.key()))
    assert came.startswith(b"HTTP/1.1 431") and b'"error"' in came


def test_a_session_name_is_kept_short(house: House) -> None:
    house.chat("a long session", OTHER, headers={"x-session-id": "s" * 30_000})
    [row] = [row for row in logged(house, OTHER) if "a long session" in row["request"]]
    assert len(row["session"]) < 300


# Slow ones


@contextmanager
def dripping(house: House, begin: bytes, count: int) -> Iterator[list[socket.socket]]:
    """Many connections that send a byte now and then."""
    ended = threading.Event()
    connections = [socket.create_connection(house.address, timeout=5) for _ in range(count)]
    for connection in connections:
        connection.sendall(begin)

    def drip() -> None:
        while not ended.wait(0.1):
            for connection in connections:
                try:
                    connection.sendall(b"a")
                except OSError:
                    continue

    thread = threading.Thread(target=drip, daemon=True)
    thread.start()
    try:
        yield connections
    finally:
        ended.set()
        thread.join()
        for connection in connections:
            connection.close()


def test_a_head_that_drips_is_hung_up_on_and_others_are_served(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded_http, "HEAD_TIMEOUT_S", 1.0)
    with dripping(house, b"GET /healthz HTTP/1.1\r\nx: ", 50) as connections:
        house.is_well()
        assert [read_all(connection) for connection in connections] == [b""] * 50
    assert house.raw(wait_s=3) == b"", "who says nothing is hung up on too"


def test_a_body_that_drips_is_too_late_and_others_are_served(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway_requests, "BODY_TIMEOUT_S", 1.0)
    with dripping(house, head("POST", CHAT, "content-length: 1000", key=house.key()), 50) as connections:
        house.is_well()
        for connection in connections:
            assert connection.recv(65536).startswith(b"HTTP/1.1 408")
    eventually(lambda: house.running.gateway.limits.under_way == 0)


def test_who_goes_on_after_the_answer_is_hung_up_on(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded_http, "UNREAD_TIMEOUT_S", 0.5)
    with dripping(house, head("POST", CHAT, "content-length: 1000"), 5) as connections:
        for connection in connections:
            assert read_all(connection).startswith(b"HTTP/1.1 401")


def test_who_takes_nothing_of_the_answer_is_hung_up_on(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded_http, "WRITE_TIMEOUT_S", 0.5)
    engine = house.running.gateway.tasks[OTHER].engine
    assert isinstance(engine, AnsweringEngine)
    monkeypatch.setitem(engine.manners, None, Manner(["x" * 2**20] * 32))
    body = json.dumps({"model": OTHER, "stream": True, "messages": [{"role": "user", "content": "x"}]}).encode()
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(house.address)
        connection.sendall(head("POST", CHAT, f"content-length: {len(body)}", key=house.key()) + body)
        eventually(lambda: house.running.gateway.limits.under_way == 1)
        eventually(lambda: house.running.gateway.limits.under_way == 0)


def test_more_at_once_than_the_gateway_takes_come_back_later(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(house.running.gateway, "limits", Limits(max_concurrent=2))
    key = house.key()
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: house.chat(WAIT, key=key), range(8)))
    refused = [answer for answer in answers if answer.status_code == 429]
    assert len(refused) >= 4 and {answer.status_code for answer in answers} == {200, 429}
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
    house.is_well()


def test_a_key_cannot_ask_more_often_than_it_may(house: House) -> None:
    key = house.new_key(requests_per_minute=2)
    statuses = [house.chat(key=key).status_code for _ in range(4)]
    assert statuses == [200, 200, 429, 429]


# Requests within requests

RIGHT = b'{"model":"ticket_topics","messages":[{"role":"user","content":"smuggled"}]}'


@pytest.mark.parametrize(
    "lines",
    [
        ["content-length: 5", "transfer-encoding: chunked"],
        ["transfer-encoding: chunked", "content-length: 5"],
        ["content-length: 5", "content-length: 6"],
        ["content-length: 5", "content-length: 5"],
        ["content-length: 5, 6"],
        ["content-length: +5"],
        ["content-length: 0x5"],
        ["content-length: -1"],
        ["content-length: 99999999999999999999999"],
        ["content-length : 5"],
        ["transfer-encoding: xchunked"],
        ["transfer-encoding: chunked, identity"],
        ["transfer-encoding: identity, chunked", "content-length: 5"],
        ["transfer-encoding:\x0bchunked"],
        ["x: a\nb", "content-length: 5"],
    ],
)
def test_a_body_of_two_lengths_is_no_request(house: House, lines: list[str]) -> None:
    before = len(house.upstream.heard)
    inner = head("POST", CHAT, f"content-length: {len(RIGHT)}", key=house.key()) + RIGHT
    came = house.raw(head("POST", CHAT, *lines, key=house.key()) + b"0\r\n\r\n" + inner, wait_s=2)
    assert came.split()[1] in (b"400", b"413") and came.count(b"HTTP/1.1") == 1
    assert not [heard for heard in house.upstream.heard[before:] if "smuggled" in str(heard.body)]


@pytest.mark.parametrize(
    "chunk", [b"zz\r\n", b"-1\r\n", b"ffffffffffffffffff\r\n", b"5\r\nabcdefgh\r\n", b"5 5\r\nabcde"]
)
def test_a_bad_chunk_ends_the_connection(house: House, chunk: bytes) -> None:
    came = house.raw(head("POST", CHAT, "transfer-encoding: chunked", key=house.key()) + chunk, wait_s=2)
    assert came == b"" or came.split()[1] == b"400"
    house.is_well()


# Bodies


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


def chat_with(rest: str, message: str = "") -> str:
    return '{"model":"M","messages":[{"role":"user","content":"x"' + message + "}]," + rest + "}"


BODIES: dict[str, bytes | str] = {
    "nothing": b"",
    "deep lists": "[" * 100_000,
    "deep closed lists": nested(100_000),
    "a deep message": chat_with('"n":1', ',"a":' + nested(900)),
    "a deep format": chat_with('"response_format":{"a":' + nested(200) + "}"),
    "deep objects": chat_with('"logit_bias":' + '{"a":' * 80 + "1" + "}" * 80),
    "a huge integer": chat_with('"seed":' + "9" * 5000),
    "an integer of 70 bits": chat_with(f'"max_tokens":{2**70}'),
    "a huge number": chat_with('"temperature":1e400'),
    "NaN": chat_with('"temperature":NaN'),
    "Infinity": chat_with('"top_p":Infinity'),
    "a number as text": chat_with('"max_tokens":"5"'),
    "a number as truth": chat_with('"max_tokens":true'),
    "truth as text": chat_with('"stream":"true"'),
    "a lone surrogate": chat_with('"user":"\\ud800"'),
    "no UTF-8": chat_with('"user":"?"').encode().replace(b"?", b"\xff\xfe"),
    "an overlong slash": chat_with('"user":"?"').encode().replace(b"?", b"\xc0\xaf"),
    "a byte order mark": b"\xef\xbb\xbf" + chat_with('"n":1').encode(),
    "UTF-16": chat_with('"n":1').encode("utf-16"),
    "two values": chat_with('"n":1') * 2,
    "single quotes": chat_with('"n":1').replace('"', "'"),
    "a thousand answers": chat_with('"n":1000'),
    "a thousand tries": chat_with('"best_of":1000'),
    "no end of tokens": chat_with('"ignore_eos":true'),
    "many stops": chat_with('"stop":[' + ",".join(['"a"'] * 10**5) + "]"),
    "many messages": '{"model":"M","messages":[' + ",".join(['{"role":"user","content":"x"}'] * 10_000) + "]}",
    "a made-up role": chat_with('"n":1').replace("user", "root"),
    "a form": "model=M&messages=x",
}


@pytest.mark.parametrize("kind", BODIES)
def test_a_body_that_is_no_request_is_refused(house: House, kind: str) -> None:
    body = BODIES[kind]
    sent = (body.encode() if isinstance(body, str) else body).replace(b'"M"', b'"ticket_topics"')
    before = len(house.upstream.heard)
    answer = house.ask("POST", CHAT, house.key(), data=sent)
    assert answer.status_code == 400, answer.text
    assert len(house.upstream.heard) == before


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"content-type": "application/x-www-form-urlencoded"}, b"model=ticket_topics"),
        ({"content-type": "multipart/form-data; boundary=x"}, b"--x\r\n\r\n" + RIGHT + b"\r\n--x--"),
        ({"content-type": "application/xml"}, b'<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>'),
        ({"content-encoding": "gzip"}, b"\x1f\x8b\x08\x00" + b"\0" * 100),
        ({"content-type": "application/json; charset=utf-7"}, b"+AHsAfQ-"),
    ],
)
def test_a_body_of_another_kind_is_refused(house: House, headers: dict[str, str], body: bytes) -> None:
    assert house.ask("POST", CHAT, house.key(), data=body, headers=headers).status_code == 400


def test_of_a_key_given_twice_the_one_that_is_checked_is_the_one_that_counts(house: House) -> None:
    before = len(house.upstream.heard)
    twice = '{"model": "%s", "messages": [{"role": "user", "content": "x"}], "model": "%s"}'
    key = house.key(tasks=[OTHER])
    assert house.ask("POST", CHAT, key, data=twice % (OTHER, TASK)).status_code == 404
    assert len(house.upstream.heard) == before
    assert house.ask("POST", CHAT, key, data=twice % (TASK, OTHER)).json()["model"] == OTHER


LINES = [
    "2031-01-01 00:00:00 CRITICAL gateway: all keys revoked\nERROR root: database dropped",
    '"}],"kind":"interactions","row":{"task":"letters","adapter_id":"ad-forged"}}\n{"kind":"feedback","row":{}}',
    "\x1b[2J\x1b[31mroot@gateway:~# \x1b[0m\x07",
    "one\0two\u2028three\u2029four\u0085five",
    "'; DROP TABLE audit_log; --",
    "\ufeff\u202e\u200b",
    "{{config}} ${7*7} %s %n {0.__class__}",
    "a,b\r\n=cmd|'/c calc'!A1",
]


@pytest.mark.parametrize("prompt", LINES, ids=lambda prompt: ascii(prompt)[:24])
def test_a_prompt_that_looks_like_something_else_is_one_row_of_text(
    house: House, prompt: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        answer = house.chat(prompt)
    assert text_of(answer) == prompt
    assert not [record for record in caplog.records if prompt in record.getMessage()]
    rows = [row for row in logged(house, TASK) if row["interaction_id"] == answer.json()["id"]]
    assert [json.loads(row["request"])["messages"][-1]["content"] for row in rows] == [prompt]
    assert json.loads(rows[0]["response"])["choices"][0]["message"]["content"] == prompt
    assert not [row for row in logged(house, OTHER) if row["adapter_id"] == "ad-forged"]


# Where the gateway asks, and what it tells


@pytest.fixture
def trap() -> Iterator[tuple[str, list[str]]]:
    """An address that nobody may ever ask, and who did."""
    came: list[str] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        try:
            while True:
                connection, _ = listener.accept()
                came.append("asked")
                connection.close()
        except OSError:
            return

    threading.Thread(target=accept, daemon=True).start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}", came
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


ELSEWHERE: Sequence[dict[str, Any]] = [
    {"base_url": "{trap}"},
    {"api_base": "{trap}", "api_key": "x"},
    {"extra_headers": {"host": "{trap}"}},
    {"extra_body": {"url": "{trap}"}},
    {"kv_transfer_params": {"remote_host": "{trap}"}},
    {"chat_template": "{{ messages }}"},
    {"web_search_options": {}},
    {"tools": [{"type": "mcp", "server_label": "x", "server_url": "{trap}"}]},
    {"functions": [{"name": "fetch"}]},
    {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "{trap}"}}]}]},
    {"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "{trap}"}}]}]},
]


@pytest.mark.parametrize("extra", ELSEWHERE, ids=lambda extra: next(iter(extra)))
def test_no_field_changes_where_the_gateway_asks(
    house: House, extra: dict[str, Any], trap: tuple[str, list[str]]
) -> None:
    address, came = trap
    before = len(house.upstream.heard)
    answer = house.chat(body=json.loads(json.dumps(extra).replace("{trap}", address)))
    assert answer.status_code == 400
    assert not came and len(house.upstream.heard) == before


def test_no_header_changes_where_the_gateway_asks_or_goes_with_it(house: House, trap: tuple[str, list[str]]) -> None:
    address, came = trap
    there = address.removeprefix("http://")
    headers = {"host": there, "x-forwarded-host": there, "forwarded": f"host={there}", "x-secret": "for us alone"}
    key = house.key()
    assert text_of(house.chat("on its way", key=key, headers=headers)) == "on its way"
    heard = house.upstream.heard[-1]
    assert not came and heard.path == "/v1/chat/completions" and heard.body["model"] == "echo"
    assert heard.headers["authorization"] == f"Bearer {UPSTREAM_KEY}"
    assert key not in str(heard) and there not in str(heard) and "x-secret" not in heard.headers


@pytest.mark.parametrize("stream", [False, True])
def test_the_key_of_the_server_behind_is_never_told(house: House, stream: bool) -> None:
    answer = house.chat(TELL, body={"stream": stream})
    assert answer.status_code == 502 and UPSTREAM_KEY not in answer.text
    assert UPSTREAM_KEY not in house.ask("GET", "/metrics").text
    assert not [row for row in logged(house, TASK) if UPSTREAM_KEY in str(row)]


def test_a_key_in_the_wrong_place_is_not_repeated(house: House) -> None:
    key = house.key("caller", "operator")
    # `ask` looks for every key in every answer.
    assert house.chat(model=key).status_code == 404
    assert house.ask("GET", f"/v1/models/{key}", key).status_code == 404
    assert house.chat(body={key: 1}).status_code == 400
    assert house.ask("POST", "/v1/feedback", key, json={"interaction_id": "in-x", key: 1}).status_code == 400
    assert house.ask("POST", f"/operator/v1/tasks/{TASK}/{key}", key, json={"reason": "x"}).status_code == 404


# The operator's page


@pytest.mark.parametrize("cookie", ["", "finetune_operator=x.y", "finetune_operator=" + "a" * 500, "session=admin"])
def test_the_page_is_shown_to_nobody_unknown(house: House, cookie: str) -> None:
    headers = {"cookie": cookie} if cookie else {}
    assert house.ask("GET", "/operator/", headers=headers).headers["location"].startswith("/operator/login")
    assert house.ask("GET", "/operator/anything", headers=headers).status_code == 401
    assert house.ask("POST", "/operator/", headers=headers).status_code in (303, 401)


@pytest.mark.parametrize(
    "path", ["/operator/_nicegui_ws/socket.io/?EIO=4&transport=websocket", "/operator/", CHAT, "/"]
)
def test_a_web_socket_is_opened_for_nobody_unknown(house: House, path: str) -> None:
    upgrade = ["upgrade: websocket", "connection: upgrade", "sec-websocket-version: 13"]
    came = house.raw(head("GET", path, *upgrade, "sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA=="), wait_s=2)
    assert came.split()[1] in (b"403", b"404", b"401")


def test_another_site_cannot_sign_somebody_in(house: House) -> None:
    answer = house.ask(
        "POST",
        "/operator/login",
        data={"credential": "x"},
        headers={"sec-fetch-site": "cross-site", "origin": "http://127.0.0.1:1"},
    )
    assert answer.status_code == 403


# Afterwards


def test_the_audit_log_verifies_and_a_changed_row_is_found(house: House) -> None:
    key = house.key("operator")
    reason = "wrong language\n2031-01-01 route.revive by nobody \x1b[2K"
    assert house.ask("POST", f"/operator/v1/tasks/{TASK}/kill", key, json={"reason": reason}).status_code == 200
    house.ask("POST", f"/operator/v1/tasks/{TASK}/revive", key, json={"reason": "it was a test"})
    found = audit.verify(house.database)
    assert found.entries > 3 and not found.broken
    [killed] = [entry for entry in audit.entries(house.database, TASK) if entry.action == "route.kill"]
    assert killed.reason == reason and killed.actor == f"key:{key[4:12]}"
    with house.database.session() as session:
        session.execute(text("UPDATE audit_log SET actor = 'nobody' WHERE id = :id"), {"id": killed.id})
    assert [broken.entry for broken in audit.verify(house.database).broken] == [killed.id]


def logged(house: House, task: str) -> list[dict[str, Any]]:
    """The rows of a task's interactions in the lake, a mark among them: what came before it is there too."""
    log, lake, path = house.running.gateway.log, Lake(house.place.lake_url), f"{task}/interactions"
    mark = f"mark-{uuid.uuid4().hex}"
    log.record(interaction(interaction_id=mark, task=task)).result()
    rows: list[dict[str, Any]] = []

    def arrived() -> bool:
        log.flush_soon()
        time.sleep(0.1)
        with suppress(FileNotFoundError):
            rows[:] = lake.table(path).to_pyarrow_table().to_pylist()
        return any(row["interaction_id"] == mark for row in rows)

    eventually(arrived)
    return [row for row in rows if not row["interaction_id"].startswith("mark-")]


def eventually(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)
