"""What people are called: records name them by key or by the identity provider's subject."""

from collections.abc import Iterable, Mapping

from finetune_platform.database import Database
from finetune_platform.serving.keys import list_keys


def names_of(database: Database, actors: Iterable[str]) -> Mapping[str, str]:
    """Names by actor: that of the key with its id, else the actor itself."""
    keys = {f"key:{key.key_id}": f"{key.name} ({key.key_id})" for key in list_keys(database)}
    return {actor: keys.get(actor, actor) for actor in actors}
