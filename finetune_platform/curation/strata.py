"""Names the stratum of a row by the task's rules.

What a stratum is for (slices of a report, shares of a split) belongs to whoever reads the column.
"""

import re

from finetune_platform.rows import Example
from finetune_platform.task import StratumRule


def name_strata(example: Example, rules: list[StratumRule]) -> Example:
    """The example with `task_type` and `difficulty` filled in.

    A value that the source gave stays. Otherwise the first rule of a field whose patterns are all found
    (`re.search`, in the last user message and in the answer) names it; a rule without patterns always holds. A text
    has neither, and no rule names it.
    """
    if example.kind == "text":
        return example
    prompt = next((m.content or "" for m in reversed(example.prompt) if m.role == "user"), "")
    for rule in rules:
        if not getattr(example, rule.field) and _holds(rule, prompt, example.answer):
            setattr(example, rule.field, rule.value)
    return example


def kind_of_question(question: str, rules: list[StratumRule]) -> str:
    """The `task_type` of a question whose right answer nobody knows: by rules that look at the prompt alone; or ""."""
    for rule in rules:
        of_prompts = rule.field == "task_type" and rule.prompt_matches is not None and rule.answer_matches is None
        if of_prompts and re.search(rule.prompt_matches or "", question):
            return rule.value
    return ""


def _holds(rule: StratumRule, prompt: str, answer: str) -> bool:
    patterns = ((rule.prompt_matches, prompt), (rule.answer_matches, answer))
    return all(pattern is None or re.search(pattern, text) for pattern, text in patterns)
