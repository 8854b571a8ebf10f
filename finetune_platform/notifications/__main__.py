"""One round of sending as a process of its own: the gateway starts it, so that no mail server holds up a request.

python -m finetune_platform.notifications
"""

import logging
import sys

from finetune_platform.database import Database
from finetune_platform.errors import FinetuneError
from finetune_platform.notifications.sender import send_waiting
from finetune_platform.settings import settings
from finetune_platform.task_file import find_tasks

log = logging.getLogger("finetune_platform.notifications")


def main() -> int:
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    try:
        place = settings()
        sent = send_waiting(Database(place.database_url), find_tasks(place.tasks_dir), place)
    except FinetuneError as error:
        log.warning("notifications wait: %s", error.problem)
        return error.exit_code
    for target, problem in sent.problems.items():
        log.warning("notifications wait: %s: %s", target, problem)
    return 0


if __name__ == "__main__":
    sys.exit(main())
