"""A real Label Studio on this machine, from the environment that `bench/peers/label_studio.py` makes, and its users."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import requests
from tiny_llama import REPOSITORY

START_S = 180.0
ADMIN = "admin@example.com"
PASSWORD = "correct-horse-8"


class Person:
    """Somebody with an account: their browser's session, and a personal access token."""

    def __init__(self, url: str, email: str, session: requests.Session) -> None:
        self.url, self.email, self.session = url, email, session
        made = session.post(f"{url}/api/token/", headers={"X-CSRFToken": session.cookies["csrftoken"]}, timeout=30)
        self.token: str = made.json()["token"]

    def ask(self, method: str, path: str, body: Any = None, expect: int = 200) -> Any:
        """What the API answers this person."""
        access = requests.post(f"{self.url}/api/token/refresh/", json={"refresh": self.token}, timeout=30).json()
        told = requests.request(
            method, self.url + path, json=body, headers={"Authorization": f"Bearer {access['access']}"}, timeout=30
        )
        assert told.status_code == expect, f"{method} {path}: {told.status_code} {told.text[:500]}"
        return told.json() if told.content else None

    def next_task(self, project: int) -> dict[str, Any] | None:
        """The task that the label stream gives this person; None where it has none for them."""
        access = requests.post(f"{self.url}/api/token/refresh/", json={"refresh": self.token}, timeout=30).json()
        told = requests.get(
            f"{self.url}/api/projects/{project}/next/",
            headers={"Authorization": f"Bearer {access['access']}"},
            timeout=30,
        )
        return told.json() if told.status_code == 200 else None

    def annotate(self, task: int, said: dict[str, Any]) -> int:
        return int(self.ask("POST", f"/api/tasks/{task}/annotations/", said, expect=201)["id"])


class RealLabelStudio:
    """One server on SQLite; `start` after `stop` is a restart on the same port with the same projects.

    Args:
        folder: Where it keeps everything.
    """

    def __init__(self, folder: Path) -> None:
        script = REPOSITORY / "bench" / "peers" / "label_studio.py"
        made = subprocess.run([sys.executable, str(script)], check=True, stdout=subprocess.PIPE, text=True)
        self.command = Path(made.stdout.splitlines()[-1]).with_name("label-studio")
        self.folder = folder
        self.log = folder / "label-studio.log"
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> float:
        """Starts it; the seconds until it answered."""
        account = ["--username", ADMIN, "--password", PASSWORD]
        place = ["--no-browser", "--port", str(self.port), "--internal-host", "127.0.0.1"]
        environment = {
            **os.environ,
            "LABEL_STUDIO_BASE_DATA_DIR": str(self.folder / "data"),
            "COLLECT_ANALYTICS": "false",
            "LATEST_VERSION_CHECK": "false",
            "SENTRY_DSN": "",
            "FRONTEND_SENTRY_DSN": "",
        }
        started = time.monotonic()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [str(self.command), "start", *place, *account],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() - started > START_S:
                raise RuntimeError(f"Label Studio did not start:\n{self.log.read_text(errors='replace')[-3000:]}")
            time.sleep(0.5)
        return time.monotonic() - started

    def stop(self) -> None:
        """Kills it with all its processes."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def admin(self) -> Person:
        """Whom the server was started with."""
        session = requests.Session()
        self._post_form(session, "/user/login/", ADMIN)
        return Person(self.url, ADMIN, session)

    def invite(self, admin: Person, email: str) -> Person:
        """Somebody who signs up by the admin's link."""
        link = admin.session.get(f"{self.url}/api/invite", timeout=30).json()["invite_url"]
        session = requests.Session()
        self._post_form(session, link, email)
        return Person(self.url, email, session)

    def _post_form(self, session: requests.Session, path: str, email: str) -> None:
        session.get(self.url + path, timeout=30)
        form = {"email": email, "password": PASSWORD, "csrfmiddlewaretoken": session.cookies["csrftoken"]}
        told = session.post(self.url + path, data=form, allow_redirects=False, timeout=30)
        assert told.status_code == 302, f"{path}: {told.status_code} {told.text[:500]}"

    def _answers(self) -> bool:
        try:
            return requests.get(f"{self.url}/health", timeout=2).ok
        except requests.RequestException:
            return False
