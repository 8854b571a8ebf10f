"""The engine that a task file names, built. The engines themselves stand in files of their own."""

from collections.abc import Mapping
from pathlib import Path

from finetune_platform.errors import BadInput
from finetune_platform.inference.chat import ChatEngine
from finetune_platform.task_serving import EngineRef


def build_engine(ref: EngineRef, base_model: Path | None, api_keys: Mapping[str, str], timeout_s: float) -> ChatEngine:
    """The engine of a task.

    Args:
        ref: `serving.engine` or `serving.base` of the task file.
        base_model: Local folder of the base model; kind in_process needs it, the others do not look at it.
        api_keys: What `api_key` names are looked up in.
        timeout_s: Longest time for an answer.

    Raises:
        BadInput: The reference names a key that is not there or cannot be one, or kind in_process lacks its base model.
    """
    if ref.kind == "in_process":
        if base_model is None:
            raise BadInput("serving.engine: kind in_process has no base model", "set base_model: in the task file")
        from finetune_platform.inference.in_process_models import InProcessModels

        return InProcessModels(base_model)
    api_key = upstream_key(ref.api_key, api_keys, "serving")
    if ref.kind == "vllm":
        from finetune_platform.inference.vllm import VllmEngine

        return VllmEngine(ref.urls, ref.model, api_key, timeout_s)
    from finetune_platform.inference.upstream import UpstreamEngine

    assert ref.model is not None  # the task model refuses kind openai without it
    return UpstreamEngine(ref.urls, ref.model, api_key, timeout_s)


def upstream_key(name: str | None, api_keys: Mapping[str, str], place: str) -> str | None:
    """The key that a task file names; None where it names none.

    Args:
        name: An entry of `api_keys`.
        api_keys: UPSTREAM_API_KEYS.
        place: The section that names it.

    Raises:
        BadInput: It is not there, or no header can hold it.
    """
    if name is None:
        return None
    if name not in api_keys:
        known = ", ".join(sorted(api_keys)) or "it has none"
        raise BadInput(
            f'{place}: api_key "{name}" is not in UPSTREAM_API_KEYS ({known})',
            f"add {name}=KEY to UPSTREAM_API_KEYS, or correct the name",
        )
    key = api_keys[name]
    if not (key.isascii() and key.isprintable()):
        raise BadInput(
            f"UPSTREAM_API_KEYS: {name} holds characters that a header may not",
            "look for a line break at its end, or a quotation mark from a text editor",
        )
    return key
