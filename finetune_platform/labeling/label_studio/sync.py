"""One round with Label Studio for a task: open batches are sent there, and what people said is fetched.

When rounds happen belongs in `sensors/` and `commands/`.
"""

import math
import time
from typing import NamedTuple

from pydantic import SecretStr

from finetune_platform.database import Database
from finetune_platform.errors import BadInput
from finetune_platform.labeling.batches import Batch, read_batch
from finetune_platform.labeling.label_studio.projects import forget, known_project, note, unfinished_batches
from finetune_platform.labeling.label_studio.pull import Pulled, pull
from finetune_platform.labeling.label_studio.push import Asked, closed_title, own_project, push
from finetune_platform.labeling.label_studio.server import LabelStudioServer
from finetune_platform.task_labeling import Labeling


class Synced(NamedTuple):
    """What a round did for one batch. `url` is where people label it; `whole` that nothing is left to send or fetch."""

    batch_id: str
    url: str
    pulled: Pulled
    whole: bool

    @property
    def words(self) -> str:
        """The round in a line."""
        new, changed, withdrawn, refused, _ = self.pulled
        counts = {"new": new, "changed": changed, "withdrawn": withdrawn, "not taken over": len(refused)}
        said = ", ".join(f"{count:,} {what}" for what, count in counts.items() if count) or "nothing new"
        return f"{self.batch_id} ({self.url}): {said}{'' if self.whole else '; more at the next round'}"


def sync(
    database: Database,
    task: str,
    labeling: Labeling,
    token: SecretStr,
    *,
    seconds: float = math.inf,
    whole: bool = False,
    anew: bool = False,
) -> list[Synced]:
    """Sends a task's open batches and fetches what people said of them; says once of a closed one that it is closed.

    Args:
        token: A personal access token of the server that `labeling` names.
        seconds: After so long no further request is begun; the next round goes on.
        whole: Look at everything, not only at what has changed.
        anew: Open rows of batches whose project is lost go into another one.

    Returns:
        What it did, a batch an entry; nothing for a task without such a batch.

    Raises:
        BadInput: The task labels elsewhere, the token is refused, a project is lost; other batches are served first.
        Unreachable: The server does not answer.
    """
    if labeling.label_studio is None:
        raise BadInput(
            f"{task}: experts label in the built-in pages", "set labeling.backend: label_studio to change it"
        )
    until = time.monotonic() + seconds
    server = LabelStudioServer(labeling.label_studio.url, token)
    done, lost = [], []
    for batch_id in unfinished_batches(database, task):
        try:
            if anew:
                _forget_lost(database, server, batch_id)
            done.append(_sync_batch(database, server, batch_id, labeling, until, whole=whole))
        except BadInput as error:
            lost.append(error)
    server.close()
    if lost:
        raise lost[0]
    return done


def _sync_batch(
    database: Database, server: LabelStudioServer, batch_id: str, labeling: Labeling, until: float, *, whole: bool
) -> Synced:
    batch = read_batch(database, batch_id)
    if not batch.is_open:
        return _end(database, server, batch, labeling, until)
    project_id = push(database, server, batch, Asked(labeling.labels, labeling.guidelines), until, whole=whole)
    if project_id is None:
        return Synced(batch_id, server.url, Pulled(), whole=False)
    pulled = pull(database, server, batch, project_id, labeling.labels, until, whole=whole)
    return Synced(batch_id, server.page_of(project_id), pulled, pulled.whole)


def _end(database: Database, server: LabelStudioServer, batch: Batch, labeling: Labeling, until: float) -> Synced:
    """Looks a last time what came before a batch was closed, and says in the title that what comes now is too late."""
    known = known_project(database, batch.batch_id)
    project = None if known is None else own_project(server, batch.batch_id, known.project_id)
    if known is None or project is None:
        note(database, batch.batch_id, ended=True)
        return Synced(batch.batch_id, server.url, Pulled(), whole=True)
    pulled = pull(database, server, batch, known.project_id, labeling.labels, until)
    if pulled.whole:
        server.change_project(known.project_id, {"title": closed_title(project["title"])})
        note(database, batch.batch_id, ended=True)
    return Synced(batch.batch_id, server.page_of(known.project_id), pulled, pulled.whole)


def _forget_lost(database: Database, server: LabelStudioServer, batch_id: str) -> None:
    known = known_project(database, batch_id)
    if known is not None and own_project(server, batch_id, known.project_id) is None:
        forget(database, batch_id)
