"""Requests over kept connections, in the event loop of gateways, to a server that sends the bytes it is told to."""

import asyncio
import itertools
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_platform.inference import http_pool
from finetune_platform.inference.http_connection import HIGH_WATER_BYTES, BrokenOff, NoAnswer, NotHttp, Response
from finetune_platform.inference.http_pool import CannotConnect, HttpPool

BODY = b'{"choices": []}'
PLAIN = b"HTTP/1.1 200 OK\r\nContent-Type: Application/JSON; charset=utf-8\r\nContent-Length: 15\r\n\r\n" + BODY
CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;name=value\r\n" + BODY[:5] + b"\r\na\r\n" + BODY[5:]
) + b"\r\n0\r\nX-Trailer: 1\r\n\r\n"
TO_THE_END = b"HTTP/1.1 200 OK\r\n\r\n" + BODY


class Server:
    """Answers each request with the next of `answers`, in the pieces given; "close" closes, a number waits seconds."""

    def __init__(self, *answers: list[bytes | str | float], tls: ssl.SSLContext | None = None) -> None:
        self.answers = list(answers)
        self.tls = tls
        self.requests: list[bytes] = []
        self.connections = 0
        self.closed_by_client = 0

    async def __aenter__(self) -> "Server":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self.tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *error: object) -> None:
        self._server.close()

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://localhost:{self.port}/v1/chat"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length:")[2].split()[0])
                self.requests.append(head + await reader.readexactly(length))
                for piece in self.answers.pop(0):
                    if piece == "close":
                        return
                    if isinstance(piece, bytes):
                        writer.write(piece)
                        await writer.drain()
                    else:
                        await asyncio.sleep(float(piece))
        except (asyncio.IncompleteReadError, ConnectionError):
            self.closed_by_client += 1
        finally:
            writer.close()


@asynccontextmanager
async def pool_of(headers: dict[str, str] | None = None, connections: int = 8) -> AsyncIterator[HttpPool]:
    pool = HttpPool(headers or {}, connect_s=5.0, silence_s=0.5, max_connections=connections)
    try:
        yield pool
    finally:
        pool.close()


async def body_of(response: Response) -> bytes:
    pieces = []
    while piece := await response.read():
        pieces.append(piece)
    return b"".join(pieces)


async def ask(pool: HttpPool, server: Server) -> tuple[int, bytes]:
    response = await pool.send("POST", server.url, b"{}")
    try:
        return response.status, await body_of(response)
    finally:
        response.release()


async def rest() -> None:
    await asyncio.sleep(0.05)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([PLAIN, CHUNKED, TO_THE_END]), st.lists(st.integers(1, 140), max_size=6, unique=True))
def test_an_answer_is_the_same_however_its_bytes_are_cut(raw: bytes, cuts: list[int]) -> None:
    places = [0, *sorted(c for c in cuts if c < len(raw)), len(raw)]
    pieces: list[bytes | str | float] = []
    for start, stop in itertools.pairwise(places):
        pieces += [raw[start:stop], 0.001]

    async def run() -> None:
        async with Server([*pieces, *(["close"] if raw is TO_THE_END else [])]) as server, pool_of() as pool:
            assert await ask(pool, server) == (200, BODY)

    uvloop.run(run())


def test_what_the_server_is_sent() -> None:
    async def run() -> None:
        async with Server([PLAIN]) as server, pool_of({"Authorization": "Bearer k"}) as pool:
            response = await pool.send("POST", f"{server.url}/ä b?x=1", b'{"a":1}', {"traceparent": "00-1"})
            assert response.content_type == "application/json"
            assert server.requests == [
                b"POST /v1/chat/%C3%A4%20b?x=1 HTTP/1.1\r\n"
                b"Host: localhost:" + str(server.port).encode() + b"\r\nAuthorization: Bearer k\r\n"
                b'Content-Length: 7\r\ntraceparent: 00-1\r\n\r\n{"a":1}'
            ]
            response.release()

    uvloop.run(run())


def test_a_connection_is_used_again_only_after_a_whole_answer() -> None:
    half = PLAIN[:-3]

    async def run() -> None:
        answers: list[list[bytes | str | float]] = [[PLAIN], [CHUNKED], [half], [PLAIN]]
        async with Server(*answers) as server, pool_of() as pool:
            await ask(pool, server)
            await ask(pool, server)
            assert server.connections == 1
            response = await pool.send("POST", server.url, b"{}")
            assert await response.read() == BODY[:-3]
            response.release()
            response.release()
            await rest()
            assert server.closed_by_client == 1
            await ask(pool, server)
            assert server.connections == 2

    uvloop.run(run())


@pytest.mark.parametrize(
    "answer",
    [
        [PLAIN.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")],
        [PLAIN.replace(b"1.1", b"1.0")],
        [PLAIN + PLAIN],
        [PLAIN + b"garbage"],
        [PLAIN, "close"],
        [TO_THE_END, "close"],
    ],
)
def test_a_connection_that_is_over_or_out_of_step_is_not_used_again(answer: list[bytes | str | float]) -> None:
    async def run() -> None:
        async with Server(answer, [PLAIN]) as server, pool_of() as pool:
            assert await ask(pool, server) == (200, BODY)
            await rest()
            assert await ask(pool, server) == (200, BODY)
            assert server.connections == 2

    uvloop.run(run())


def test_what_comes_unasked_on_a_kept_connection_is_no_answer() -> None:
    async def run() -> None:
        forged = PLAIN.replace(b"choices", b"forgery")
        async with Server([PLAIN, 0.02, forged, 10.0], [PLAIN]) as server, pool_of() as pool:
            assert await ask(pool, server) == (200, BODY)
            await asyncio.sleep(0.1)
            assert await ask(pool, server) == (200, BODY)
            assert server.connections == 2

    uvloop.run(run())


def test_kept_connections_are_let_go_before_their_server_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_pool, "IDLE_S", 0.1)

    async def run() -> None:
        async with Server([PLAIN], [PLAIN]) as server, pool_of() as pool:
            await ask(pool, server)
            await asyncio.sleep(0.3)
            assert server.closed_by_client == 1
            await ask(pool, server)

    uvloop.run(run())


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (["close"], NoAnswer),
        ([b"HTTP/1.1 200", "close"], BrokenOff),
        ([b"SSH-2.0-OpenSSH_9.2\r\n"], NotHttp),
        ([b"HTTP/1.1 200 OK\r\n" + b"X-Long: 1\r\n" * 10_000, 5.0], NotHttp),
        ([b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n"], NotHttp),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"], NotHttp),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"], NotHttp),
        ([5.0], TimeoutError),
    ],
)
def test_an_answer_that_is_none(answer: list[bytes | str | float], error: type[Exception]) -> None:
    async def run() -> None:
        async with Server(answer, [PLAIN]) as server, pool_of() as pool:
            with pytest.raises(error) as told:
                await ask(pool, server)
            assert type(told.value) is error
            assert await ask(pool, server) == (200, BODY)

    uvloop.run(run())


@pytest.mark.parametrize(
    "answer",
    [
        [PLAIN[:-3], "close"],
        [CHUNKED[:-30], "close"],
        [CHUNKED.replace(b"\r\na\r\n", b"\r\nzz\r\n")],
        [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;" + b"x" * 200_000, 5.0],
    ],
)
def test_an_answer_that_breaks_in_its_body(answer: list[bytes | str | float]) -> None:
    async def run() -> None:
        async with Server(answer, [PLAIN]) as server, pool_of() as pool:
            response = await pool.send("POST", server.url, b"{}")
            with pytest.raises((BrokenOff, NotHttp)):
                await body_of(response)
            response.release()
            assert await ask(pool, server) == (200, BODY)

    uvloop.run(run())


def test_an_interim_answer_is_not_the_answer() -> None:
    async def run() -> None:
        early = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\nContent-Type: text/html\r\n\r\n"
        async with Server([early, 0.01, early + PLAIN], [PLAIN]) as server, pool_of() as pool:
            response = await pool.send("POST", server.url, b"{}")
            assert (response.status, response.content_type) == (200, "application/json")
            assert "link" not in response.headers
            assert await body_of(response) == BODY
            response.release()
            await ask(pool, server)
            assert server.connections == 1

    uvloop.run(run())


def test_an_answer_without_a_body() -> None:
    async def run() -> None:
        async with Server([b"HTTP/1.1 204 No Content\r\n\r\n"], [PLAIN]) as server, pool_of() as pool:
            assert await ask(pool, server) == (204, b"")
            await ask(pool, server)
            assert server.connections == 1

    uvloop.run(run())


def test_a_server_waits_while_nobody_reads() -> None:
    async def run() -> None:
        size = 64 * HIGH_WATER_BYTES
        head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size
        sent = 0

        class Counting(Server):
            async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                nonlocal sent
                await reader.readuntil(b"\r\n\r\n")
                writer.write(head)
                while sent < size:
                    writer.write(b"x" * 2**16)
                    await writer.drain()
                    sent += 2**16
                writer.close()

        async with Counting() as server, pool_of() as pool:
            response = await pool.send("POST", server.url, None)
            await asyncio.sleep(0.3)
            assert sent < size / 2
            assert len(await body_of(response)) == size
            response.release()

    uvloop.run(run())


def test_requests_beyond_the_most_connections_wait() -> None:
    async def run() -> None:
        async with Server(*([0.1, PLAIN] for _ in range(4))) as server, pool_of(connections=2) as pool:
            assert await asyncio.gather(*(ask(pool, server) for _ in range(4))) == [(200, BODY)] * 4
            assert server.connections == 2

    uvloop.run(run())


def test_a_caller_that_leaves_breaks_the_connection_off_and_makes_room() -> None:
    async def run() -> None:
        async with Server([5.0], [PLAIN]) as server, pool_of(connections=1) as pool:
            waiting = asyncio.create_task(ask(pool, server))
            await rest()
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert await asyncio.wait_for(ask(pool, server), 2) == (200, BODY)

    uvloop.run(run())


@pytest.mark.parametrize("url", ["http://name.invalid/v1", "http://a..b/v1", "http://h:99999/v1"])
def test_an_address_that_is_none(url: str) -> None:
    async def run() -> None:
        async with pool_of() as pool:
            with pytest.raises(OSError) as told:
                await pool.send("POST", url, b"{}")
            assert isinstance(told.value, CannotConnect) or "resolution" in str(told.value)

    uvloop.run(run())


def test_only_a_certificate_that_is_trusted_is_talked_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tls, certificate = _certificate(tmp_path)

    async def run(good: Callable[[], None]) -> None:
        async with Server([PLAIN], tls=tls) as server:
            async with pool_of() as pool:
                with pytest.raises(CannotConnect):
                    await ask(pool, server)
            assert server.requests == []
            good()
            async with pool_of() as pool:
                assert await ask(pool, server) == (200, BODY)

    uvloop.run(run(lambda: monkeypatch.setenv("SSL_CERT_FILE", str(certificate))))


def _certificate(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """A server's context, and the certificate that it shows."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    certificate, private = folder / "certificate.pem", folder / "key.pem"
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, private)
    return context, certificate
