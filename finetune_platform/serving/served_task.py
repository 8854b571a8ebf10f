"""What the gateway knows of one task beyond its file: engines, prompts, what counts as a good answer.

Which adapter answers is the plan's decision; loading it is `fleet.py`'s.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from finetune_platform.inference.chat import ChatEngine
from finetune_platform.retrieval.index import Passage
from finetune_platform.retrieval.prompt import with_passages
from finetune_platform.serving.response_cache import AnswerCache
from finetune_platform.task import Task
from finetune_platform.task_serving import EngineKind


@dataclass
class ServedTask:
    """A task at the gateway.

    Attributes:
        task: Its file.
        engine: Runs its adapters.
        base: Answers without one.
        prompts: The system prompt that each ready adapter was trained with, by id.
        cache: Answers kept for exact repeats; None: the task keeps none.
    """

    task: Task
    engine: ChatEngine
    base: ChatEngine
    prompts: dict[str, str] = field(default_factory=dict)
    cache: AnswerCache | None = field(init=False)

    def __post_init__(self) -> None:
        limits = self.task.serving.response_cache
        self.cache = None if limits is None else AnswerCache(limits)

    @property
    def name(self) -> str:
        return self.task.name

    @cached_property
    def most_tokens(self) -> int:
        return self.task.serving.max_tokens or self.task.evaluation.max_new_tokens

    @cached_property
    def _format(self) -> re.Pattern[str] | None:
        pattern = self.task.evaluation.output_pattern
        return re.compile(pattern) if pattern is not None else None

    @cached_property
    def _refusal(self) -> re.Pattern[str] | None:
        pattern = self.task.serving.refusal_pattern
        return re.compile(pattern) if pattern is not None else None

    def is_ready(self, adapter: str | None) -> bool:
        """Whether an adapter (None: the base model) can be asked."""
        return adapter is None or adapter in self.prompts

    def engine_of(self, adapter: str | None) -> ChatEngine:
        return self.base if adapter is None else self.engine

    def body_for(
        self, request: Mapping[str, Any], adapter: str | None, passages: Sequence[Passage] = ()
    ) -> dict[str, Any]:
        """What the engine is asked: the caller's request under the prompt that belongs to who answers.

        Args:
            request: A checked chat request with plain messages.
            adapter: Who answers.
            passages: What was found for it.
        """
        prompt = self.task.baseline_prompt if adapter is None else self.prompts[adapter]
        messages = list(request["messages"])
        if self.task.serving.replace_system_prompt:
            messages = [m for m in messages if m["role"] != "system"]
        if prompt and not (messages and messages[0]["role"] == "system"):
            messages = [{"role": "system", "content": prompt}, *messages]
        if passages and self.task.retrieval is not None:
            messages = with_passages(messages, passages, self.task.retrieval)
        asked = request.get("max_completion_tokens") or request.get("max_tokens") or self.most_tokens
        rest = {k: v for k, v in request.items() if k not in ("max_completion_tokens", "model", "stream")}
        # Evaluated greedily, so served greedily; servers of others may refuse a temperature, and have their own.
        greedy = {} if self._kind_of(adapter) == "openai" else {"temperature": 0.0}
        return {**greedy, **rest, "messages": messages, "max_tokens": min(asked, self.most_tokens)}

    def _kind_of(self, adapter: str | None) -> EngineKind:
        serving = self.task.serving
        return (serving.engine if adapter is not None or serving.base is None else serving.base).kind

    def format_valid(self, text: str) -> bool | None:
        """Whether an answer has the task's format; None where the task has none. As the evaluation judges it."""
        return None if self._format is None else self._format.fullmatch(text.strip()) is not None

    def refuses(self, text: str) -> bool:
        """Whether an answer is a refusal."""
        return self._refusal is not None and self._refusal.search(text) is not None
