"""A llama-architecture GGUF file to a plain folder: bfloat16 safetensors, tokenizer, chat template."""

from pathlib import Path

from finetune_platform.errors import BadInput
from finetune_platform.progress import Report


def convert_gguf(source: Path, target: Path, report: Report) -> None:
    """Writes the model in `source` as `save_pretrained` would have.

    Args:
        source: A `.gguf` file of the llama architecture, quantised or not.
        target: An empty folder.
        report: Told of the steps.

    Raises:
        BadInput: Another architecture, or a file without a chat template.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    report(f"base model: converting {source.name} (1/3 tokenizer)")
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    if not tokenizer.chat_template:
        raise BadInput(f"{source.name}: the file carries no chat template", "use an instruct model")
    report(f"base model: converting {source.name} (2/3 weights)")
    quantised = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
    if quantised.config.model_type != "llama":
        raise BadInput(
            f"{source.name}: architecture {quantised.config.model_type} is not llama",
            "convert it with its own tools and point base_model.uri at the folder",
        )
    # A model loaded from GGUF refuses save_pretrained; a plain one with the same tensors does not.
    config = quantised.config
    del config.quantization_config
    plain = LlamaForCausalLM(config).to(torch.bfloat16)
    plain.load_state_dict(quantised.state_dict())
    plain.tie_weights()
    plain.config.dtype = torch.bfloat16
    report(f"base model: converting {source.name} (3/3 saving bfloat16 safetensors)")
    plain.save_pretrained(target)
    tokenizer.save_pretrained(target)
