"""A model small enough for a unit test that behaves like the demo's: random weights, the real tokenizer and template.

Fixtures belong in conftest.py.
"""

import shutil
import tempfile
from pathlib import Path

from filelock import FileLock

from finetune_platform.packages import package_file
from finetune_platform.task_file import load_task

REPOSITORY = Path(__file__).parent.parent
CACHE = REPOSITORY / ".finetune" / "cache"
"""The demo's own cache, so that its packages are downloaded once."""


def real_tokenizer() -> Path:
    """A folder with the demo model's tokenizer, converted once (15 s) and kept for later test runs."""
    reference = load_task(REPOSITORY / "tasks" / "contract_entities.yaml").base_model
    assert reference.sha256
    kept = CACHE / "tests" / f"tokenizer-{reference.sha256[:12]}"
    CACHE.joinpath("tests").mkdir(parents=True, exist_ok=True)
    with FileLock(f"{kept}.lock"):
        if not kept.is_dir():
            from transformers import AutoTokenizer

            source = package_file(reference.uri, reference.sha256, CACHE, print)
            tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
            whole = Path(tempfile.mkdtemp(dir=kept.parent))
            tokenizer.save_pretrained(whole)
            whole.rename(kept)
    return kept


def save_tiny_llama(folder: Path) -> None:
    """Writes the model into `folder`; the same bytes every time."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = real_tokenizer()
    shutil.copytree(tokenizer, folder)
    config = LlamaConfig(
        vocab_size=len(AutoTokenizer.from_pretrained(tokenizer)),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
        tie_word_embeddings=True,
        dtype=torch.bfloat16,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
