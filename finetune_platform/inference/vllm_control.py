"""The part of vLLM's HTTP interface that is about models: what is there, load an adapter, unload it.

When to do which belongs in `vllm.py`.
"""

from typing import NamedTuple

import orjson

from finetune_platform.inference.answers import error_text
from finetune_platform.inference.chat import EngineError
from finetune_platform.inference.exchange import Http
from finetune_platform.inference.replicas import Replica

LIST_S = 5.0
LOAD_S = 60.0
"""vLLM reads the adapter's files before it answers."""


class Served(NamedTuple):
    """What a server has: the names of its base model and of its adapters."""

    base: tuple[str, ...]
    adapters: frozenset[str]


async def served(http: Http, replica: Replica) -> Served:
    """Asks a server what it has.

    Raises:
        EngineError: It does not answer, or not as vLLM does.
    """
    status, raw = await http.call(replica.name, "GET", f"{replica.base}/models", None, LIST_S)
    if status != 200:
        raise EngineError(502, f"{replica.name} answered {status} to /models: {error_text(raw, http.api_key)}")
    try:
        models = [(str(m["id"]), m.get("parent")) for m in orjson.loads(raw)["data"]]
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise EngineError(502, f"{replica.name} answered /models with something that is no list of models") from error
    return Served(tuple(i for i, p in models if p is None), frozenset(i for i, p in models if p is not None))


async def load(http: Http, replica: Replica, name: str, path: str) -> None:
    """Has a server load an adapter.

    Args:
        http: Connections.
        replica: The server.
        name: What requests will call it.
        path: Its PEFT folder as the server sees it.

    Raises:
        EngineError: The server refuses it (400), has no such endpoint (501) or does not answer.
    """
    request = orjson.dumps({"lora_name": name, "lora_path": path})
    status, raw = await http.call(replica.name, "POST", f"{replica.base}/load_lora_adapter", request, LOAD_S)
    said = error_text(raw, http.api_key)
    if status == 200 or (status == 400 and "already" in said):
        return
    if status in (404, 405) and "oading lora" not in said:
        raise EngineError(
            501, f"{replica.name} has no /load_lora_adapter: start it with VLLM_ALLOW_RUNTIME_LORA_UPDATING=true"
        )
    raise EngineError(
        400 if 400 <= status < 500 else 502, f"{replica.name} cannot load {name} from {path} ({status}): {said}"
    )


async def unload(http: Http, replica: Replica, name: str) -> None:
    """Has a server forget an adapter; one that it does not have is no error.

    Raises:
        EngineError: The server does not answer, or fails.
    """
    request = orjson.dumps({"lora_name": name})
    status, raw = await http.call(replica.name, "POST", f"{replica.base}/unload_lora_adapter", request, LIST_S)
    if status not in (200, 404):
        raise EngineError(502, f"{replica.name} cannot unload {name} ({status}): {error_text(raw, http.api_key)}")
