"""Callers of the gateway: sentences go in over HTTP as an application sends them, and what comes back is noted.

The notes say which gold answer belongs to which interaction: what the simulated experts know.
"""

import json
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import requests

from finetune_platform.commands.loop_demo.place import TASK_NAME, Row
from finetune_platform.errors import PermanentError, Unreachable

CALLERS = 8
TIMEOUT_S = 120.0


class Answer(NamedTuple):
    """What came back for one sentence."""

    phase: str
    question: str
    gold: str
    answer: str
    adapter: str
    interaction_id: str


class Callers:
    """Sends sentences, several at a time, each in a session of its own.

    Args:
        address: Of the gateway.
        key: A caller's.
        notes: A file of what came back; sentences of a phase that stand there are not sent again.
    """

    def __init__(self, address: str, key: str, notes: Path) -> None:
        self._address, self._notes, self._lock = address, notes, threading.Lock()
        self._headers = {"authorization": f"Bearer {key}"}
        lines = notes.read_text(encoding="utf-8").splitlines() if notes.is_file() else []
        # A line that a kill cut short was not answered as far as anybody knows.
        self.answers = [Answer(*json.loads(line)) for line in lines if line.endswith("]")]

    def of_phase(self, phase: str) -> list[Answer]:
        return [answer for answer in self.answers if answer.phase == phase]

    def send(self, phase: str, rows: Sequence[Row], tell: Callable[[int, int], None]) -> list[Answer]:
        """Every row once; rows of this phase that were answered before are not sent again.

        Args:
            phase: What the notes call it.
            tell: Hears how many are answered, of how many.

        Raises:
            PermanentError: The gateway refuses.
            Unreachable: It does not answer.
        """
        done = {answer.question for answer in self.of_phase(phase)}
        left = [row for row in rows if row.question not in done]
        with ThreadPoolExecutor(CALLERS) as pool:
            for count, _ in enumerate(pool.map(lambda row: self._ask(phase, row), left), start=len(done) + 1):
                tell(count, len(rows))
        return self.of_phase(phase)

    def _ask(self, phase: str, row: Row) -> None:
        body: dict[str, Any] = {
            "model": TASK_NAME,
            "messages": [{"role": "user", "content": row.question}],
            "temperature": 0,
        }
        try:
            reply = requests.post(
                f"{self._address}/v1/chat/completions", json=body, headers=self._headers, timeout=TIMEOUT_S
            )
        except requests.RequestException as error:
            raise Unreachable(f"{self._address}: {error}", "see the gateway's log, then run the demo again") from error
        if reply.status_code != 200:
            raise PermanentError(f"{self._address}: {reply.status_code} {reply.text[:300]}", "see the gateway's log")
        text = reply.json()["choices"][0]["message"]["content"]
        adapter, interaction = reply.headers["x-finetune-adapter"], reply.headers["x-finetune-interaction"]
        answer = Answer(phase, row.question, row.gold, text, adapter, interaction)
        with self._lock:
            self.answers.append(answer)
            with self._notes.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(answer, ensure_ascii=False) + "\n")
