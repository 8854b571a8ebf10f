"""Golden prompts: what the trainer's own model answers, to compare with every place that serves the adapter.

Comparing belongs to those who serve; how answers are generated at scale in `inference/engine.py`.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from finetune_platform.inference.base_models import conversation
from finetune_platform.rows import Example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

GOLDEN_PROMPTS = 5
GOLDEN_TOKENS = 16


def golden_answers(
    model: Any, tokenizer: "PreTrainedTokenizerBase", examples: Sequence[Example], system_prompt: str
) -> list[dict[str, Any]]:
    """The first greedy tokens of the first rows' answers, each row alone.

    Returns:
        `{"messages": the prompt with its system message, "token_ids": the answer's first tokens}` a row, with
        `tools` where the prompt offers some.
    """
    was_training = model.training
    model.eval()
    answers = []
    for example in examples[:GOLDEN_PROMPTS]:
        messages = conversation(system_prompt, example.prompt)
        tools = {"tools": example.tools} if example.tools else {}
        answers.append(
            {"messages": messages, **tools, "token_ids": first_tokens(model, tokenizer, messages, example.tools)}
        )
    model.train(was_training)
    return answers


def kept_by_merge(model: Any, tokenizer: "PreTrainedTokenizerBase", golden: Sequence[Mapping[str, Any]]) -> int:
    """How many golden prompts are answered with the same tokens once the adapter is merged, in the model's own format.

    The model stays merged: its base weights are rounded, and good for nothing but its adapter's files.
    """
    model.eval()
    model.merge_adapter()
    answers = [first_tokens(model, tokenizer, prompt["messages"], prompt.get("tools")) for prompt in golden]
    return sum(answer == prompt["token_ids"] for answer, prompt in zip(answers, golden, strict=True))


def first_tokens(
    model: Any, tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Mapping[str, Any]], tools: Any = None
) -> list[int]:
    """The first greedy tokens of the answer to one prompt.

    Args:
        model: In evaluation mode.
        tokenizer: With the chat template trained with.
        messages: The prompt with its system message.
        tools: That the prompt offers.
    """
    import torch

    text = tokenizer.apply_chat_template(list(messages), tools=tools, add_generation_prompt=True, tokenize=False)
    prompt = tokenizer(text, add_special_tokens=False, return_tensors="pt").to(model.device)
    with torch.inference_mode():
        out = model.generate(
            **prompt, do_sample=False, max_new_tokens=GOLDEN_TOKENS, pad_token_id=tokenizer.pad_token_id
        )
    return list(map(int, out[0, prompt["input_ids"].shape[1] :]))
