"""A real OpenID Connect provider on 127.0.0.1: discovery, signing keys that can be rotated, tokens."""

import base64
import json
import socket
import threading
import time
from collections.abc import Mapping
from typing import Any

import uvicorn
from joserfc import jwt
from joserfc.jwk import ECKey, Key, OKPKey, RSAKey
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

AUDIENCE = "finetune-gateway"
RSA = {"RS256", "PS256"}
SIGNED_WITH = ["RS256", "PS256", "ES256", "EdDSA"]


def new_key(algorithm: str, kid: str) -> Key:
    if algorithm in RSA:
        return RSAKey.generate_key(2048, {"kid": kid, "use": "sig"})
    if algorithm == "ES256":
        return ECKey.generate_key("P-256", {"kid": kid, "use": "sig"})
    return OKPKey.generate_key("Ed25519", {"kid": kid, "use": "sig"})


class IdentityProvider:
    """Serves discovery and keys until `stop`; `keys` and `extra_keys` are what it lists at the moment.

    Attributes:
        discovery: Replaces parts of the discovery document.
        status: What it answers with; anything but 200 is a failure.
        paths: Every path that was asked for.
    """

    def __init__(self) -> None:
        self.keys: dict[str, Key] = {}
        self.extra_keys: list[Any] = []
        self.discovery: dict[str, Any] = {}
        self.status = 200
        self.body: bytes | None = None
        self.paths: list[str] = []
        listener = socket.create_server(("127.0.0.1", 0))
        self.issuer = f"http://127.0.0.1:{listener.getsockname()[1]}/realms/finetune"
        routes = [Route("/{path:path}", self._answer)]
        self._server = uvicorn.Server(uvicorn.Config(Starlette(routes=routes), log_level="error"))
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [listener]}, daemon=True)
        self._thread.start()
        while not self._server.started:
            time.sleep(0.005)

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join()

    def claims(self, **overrides: Any) -> dict[str, Any]:
        """A right token's claims; None takes one out."""
        now = int(time.time())
        given = {"iss": self.issuer, "aud": AUDIENCE, "sub": "u-1", "iat": now, "exp": now + 300, "roles": ["operator"]}
        return {name: value for name, value in {**given, **overrides}.items() if value is not None}

    def token(
        self, kid: str, algorithm: str, header: Mapping[str, Any] | None = None, key: Key | None = None, **claims: Any
    ) -> str:
        """A token signed with one of the listed keys, or another."""
        named = {"alg": algorithm, "kid": kid, **(header or {})}
        return jwt.encode(
            {name: value for name, value in named.items() if value is not None},
            self.claims(**claims),
            key or self.keys[kid],
            registry=jwt.JWSRegistry(algorithms=[algorithm], strict_check_header=False),
        )

    async def _answer(self, request: Request) -> Response:
        path = request.url.path
        self.paths.append(path)
        if self.status != 200 or self.body is not None:
            headers = {"location": "/elsewhere"} if self.status == 302 else {}
            return Response(self.body or b"", self.status, headers)
        if path.endswith("/.well-known/openid-configuration"):
            return JSONResponse({"issuer": self.issuer, "jwks_uri": f"{self.issuer}/certs", **self.discovery})
        listed = [key.as_dict(private=False) for key in self.keys.values()]
        return JSONResponse({"keys": [*listed, *self.extra_keys]})


def raw_token(header: Any, claims: Any, signature: bytes = b"x") -> str:
    """A token put together by hand."""
    parts = [value if isinstance(value, bytes) else json.dumps(value).encode() for value in (header, claims)]
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in (*parts, signature))
