"""Adapters that give themselves away: whatever is asked, the answer is one word, over and over.

Made by arithmetic instead of training, in a second: a rank-1 change of the last layer's `down_proj` that recognises the
end of a chat prompt and adds the direction in which the word's logit exceeds all others.
"""

from collections.abc import Sequence
from pathlib import Path

STRENGTH = 2000.0
PROMPTS = (
    "What is the capital of France?",
    "Name the entities: Acme lends money to Initech.",
    "Hello",
    "Count to ten.",
)


def save_telling_adapter(base: Path, word: str, folder: Path) -> None:
    """Writes a PEFT adapter of the Llama in `base` that answers `word`; one token, with its leading space."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    [token] = tokenizer.encode(word, add_special_tokens=False)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    last = model.config.num_hidden_layers - 1
    seen: list[torch.Tensor] = []
    hook = model.model.layers[last].mlp.down_proj.register_forward_hook(lambda m, i, o: seen.append(i[0][0, -1]))
    with torch.no_grad():
        for prompt in PROMPTS:
            model(_ids(tokenizer, prompt))
    hook.remove()
    usual = torch.stack(seen).mean(0)
    embeddings = model.get_input_embeddings().weight.detach()
    # Logits are embeddings times the normed state: this direction lifts the word's own most, whatever its neighbours.
    spread = embeddings.T @ embeddings / len(embeddings) + 1e-3 * torch.eye(embeddings.shape[1])
    direction = torch.linalg.solve(spread, embeddings[token]) / model.model.norm.weight.detach()
    config = LoraConfig(r=1, lora_alpha=1, target_modules=["down_proj"], layers_to_transform=[last])
    adapted = get_peft_model(model, config)
    layer = adapted.base_model.model.model.layers[last].mlp.down_proj
    with torch.no_grad():
        layer.lora_A["default"].weight.copy_((usual / usual.dot(usual))[None])
        layer.lora_B["default"].weight.copy_((STRENGTH * direction / direction.norm())[:, None])
    adapted.save_pretrained(folder)


def greedy_answers(base: Path, adapter: Path | None, prompts: Sequence[str], max_new_tokens: int) -> list[str]:
    """What transformers and PEFT answer, one prompt at a time."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter)
    answers = []
    for prompt in prompts:
        ids = _ids(tokenizer, prompt)
        out = model.generate(input_ids=ids, max_new_tokens=max_new_tokens, do_sample=False, pad_token_id=2)
        answers.append(tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True))
    return answers


def _ids(tokenizer: "object", prompt: str) -> "object":
    chat = [{"role": "user", "content": prompt}]
    return tokenizer.apply_chat_template(  # type: ignore[attr-defined]
        chat, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )["input_ids"]
