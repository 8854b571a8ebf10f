"""Real servers that take messages: one for web hooks, one for mail. Fixtures belong in conftest.py."""

import http.server
import json
import socket
import threading
import time
from email import message_from_bytes
from email.message import Message
from typing import Any

from aiosmtpd.controller import Controller


class WebHook:
    """A web server that takes what Apprise's `json://` posts; `status` is what it answers, `slow_s` after how long."""

    def __init__(self) -> None:
        self.taken: list[dict[str, Any]] = []
        self.asked = 0
        self.status, self.slow_s = 200, 0.0
        hook = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                hook.asked += 1
                time.sleep(hook.slow_s)
                if hook.status == 200:
                    hook.taken.append(body)
                self.send_response(hook.status)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"json://127.0.0.1:{self.server.server_port}/hook"

    @property
    def titles(self) -> list[str]:
        return [message["title"] for message in self.taken]

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()


class MailServer:
    """An SMTP server that keeps what it is handed."""

    def __init__(self) -> None:
        self.taken: list[Message] = []
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        self._controller = Controller(self, hostname="127.0.0.1", port=self.port)
        self._controller.start()

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        self.taken.append(message_from_bytes(envelope.content))
        return "250 taken"

    @property
    def url(self) -> str:
        return f"mailto://127.0.0.1:{self.port}?to=team@example.org&from=finetune@example.org&mode=insecure"

    def stop(self) -> None:
        self._controller.stop()
