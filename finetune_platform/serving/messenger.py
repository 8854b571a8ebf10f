"""The gateway's part in telling people: it has what waits sent by a process of its own.

A rollback happens without Dagster, so hearing of it must not need Dagster either. Not in the gateway's own process: a
client library for two hundred services, and servers that hang, would stand beside requests that take a millisecond.
"""

import logging
import subprocess
import sys
import time
from datetime import UTC, datetime

from finetune_platform.announcements import something_waits
from finetune_platform.database import Database
from finetune_platform.errors import FinetuneError

STOP_S = 10.0
"""How long an ending gateway waits for the process; what that has not sent by then others will."""

PAUSE_S = 60.0
"""Before the next process where one ended badly: a setting or a task file is wrong, and stays so for a while."""

log = logging.getLogger(__name__)


class Messenger:
    """Starts a sender where something waits, one at a time.

    Args:
        database: Where announcements are.
        enabled: Whether this gateway's environment names anybody to tell.
    """

    def __init__(self, database: Database, enabled: bool) -> None:
        self._database, self._enabled = database, enabled
        self._process: subprocess.Popen[bytes] | None = None
        self._rests_until = 0.0

    def look(self) -> None:
        """Looks whether something waits; returns at once."""
        if not self._enabled or not self._free():
            return
        command = [sys.executable, "-m", "finetune_platform.notifications"]
        try:
            if something_waits(self._database, datetime.now(UTC)):
                # A session of its own: Ctrl-C ends the gateway, not a message on its way.
                self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
        except FinetuneError as error:
            log.warning("notifications wait: %s", error.problem)
        except OSError as error:
            self._rests_until = time.monotonic() + PAUSE_S
            log.warning("notifications wait: no process for them: %s", error)

    def _free(self) -> bool:
        if self._process is not None:
            code = self._process.poll()
            if code is None:
                return False
            self._process = None
            if code != 0:
                self._rests_until = time.monotonic() + PAUSE_S
        return time.monotonic() >= self._rests_until

    def stop(self) -> None:
        """Waits a little for a message on its way."""
        if self._process is None:
            return
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            log.warning("a message is still on its way; it is not waited for")
