"""An OpenAI-compatible server that answers at once: what is left of a request's time is the gateway's.

It does as little as a server can, because it shares the processors with what is measured.

    python bench/stub_upstream.py PORT
"""

import asyncio
import json
import sys

import httptools
import uvloop

ANSWER = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 0,
    "model": "stub",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "[Silicon Valley Bank - ORGANIZATION, Borrower - PERSON]"},
            "finish_reason": "stop",
        }
    ],
    "usage": {"prompt_tokens": 60, "completion_tokens": 14, "total_tokens": 74},
}
MODELS = {"object": "list", "data": [{"id": "stub", "object": "model"}]}


def response(body: object) -> bytes:
    data = json.dumps(body).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    return head.encode() + data


RESPONSES = {b"/v1/chat/completions": response(ANSWER), b"/v1/models": response(MODELS)}


class Stub(asyncio.Protocol):
    """One connection."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport
        self.parser = httptools.HttpRequestParser(self)
        self.url = b""

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self.url = url

    def on_message_complete(self) -> None:
        self.transport.write(RESPONSES[self.url])


async def main(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Stub, "127.0.0.1", port, backlog=512)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
