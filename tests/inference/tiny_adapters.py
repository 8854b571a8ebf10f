"""Adapters of the tiny model that change its answers, each its own way.

Fixtures belong in the test files.
"""

from pathlib import Path
from typing import Any


def save_adapter(base: Path, folder: Path, seed: int, **options: Any) -> Path:
    """A LoRA adapter with random weights on all linear layers, unless `options` say otherwise."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        config = LoraConfig(**{"r": 4, "target_modules": "all-linear", "init_lora_weights": False, **options})
        get_peft_model(model, config).save_pretrained(folder)
    return folder


def generated(base: Path, adapter: Path | None, prompts: list[list[int]], tokens: int) -> list[list[int]]:
    """What transformers (and PEFT) generate for each prompt, one at a time, in float32."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter)
    model.eval()
    answers = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False)
        answers.append(out[0, len(prompt) :].tolist())
    return answers
