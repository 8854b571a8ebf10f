"""The engine's answers are those of one request at a time: same tokens, same order, with and without an adapter."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_platform.errors import BadInput
from finetune_platform.inference.engine import Engine, _batches, _shared_length

PROMPT = "Answer with the topic of this support ticket, one word: card, transfer or login. Answer with nothing else."
TICKETS = [
    "My card was declined.",
    "The transfer to my landlord is late, and nobody answers the phone about it since Monday morning.",
    "Locked out!",
    "I cannot log in with my new phone; the old one is gone. " * 4,
    "Card?",
    "Where is my money",
    "The app says that my password is wrong",
]


def quiet(line: str) -> None:
    """Nobody listens."""


def chats(system: str) -> list[list[dict[str, Any]]]:
    return [[{"role": "system", "content": system}, {"role": "user", "content": t}] for t in TICKETS]


@pytest.fixture(scope="module")
def engine(tiny_model: Path) -> Engine:
    return Engine(tiny_model, dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def adapter(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA adapter with weights large enough to change most answers."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    torch.manual_seed(1)
    model = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    folder = tmp_path_factory.mktemp("adapter")
    model.save_pretrained(folder)
    return folder


def one_by_one(model: Any, engine: Engine, conversations: list[list[dict[str, Any]]], tokens: int) -> list[list[int]]:
    """What transformers generates, one conversation at a time."""
    import torch

    answers = []
    for conversation in conversations:
        ids = torch.tensor([engine.encode(conversation)])
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False)
        answers.append(out[0, ids.shape[1] :].tolist())
    return answers


@pytest.mark.parametrize("system", ["Name the topic.", PROMPT], ids=["short prompt", "shared prefix"])
@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_answers_equal_transformers_generate(engine: Engine, tiny_model: Path, system: str, batch_size: int) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    reference = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    ours = engine.generate(
        chats(system), adapter=None, max_new_tokens=12, batch_size=batch_size, report=quiet, stage="t"
    )
    assert [list(c.token_ids) for c in ours] == one_by_one(reference, engine, chats(system), 12)


def test_adapter_answers_equal_peft_and_the_base_is_untouched(engine: Engine, tiny_model: Path, adapter: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    def answers(path: Path | None) -> list[list[int]]:
        found = engine.generate(chats(PROMPT), adapter=path, max_new_tokens=8, batch_size=4, report=quiet, stage="t")
        return [list(c.token_ids) for c in found]

    before = answers(None)
    reference = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32), adapter
    )
    adapted = answers(adapter)
    assert adapted == one_by_one(reference, engine, chats(PROMPT), 8)
    assert adapted != before
    assert answers(None) == before


def test_counts_reasons_and_progress(engine: Engine) -> None:
    lines: list[str] = []
    answers = engine.generate(
        chats(PROMPT), adapter=None, max_new_tokens=5, batch_size=4, report=lines.append, stage="asking"
    )
    for conversation, answer in zip(chats(PROMPT), answers, strict=True):
        assert answer.prompt_tokens == len(engine.encode(conversation))
        assert answer.completion_tokens == len(answer.token_ids) <= 5
        assert answer.latency_ms > 0
        ended = answer.token_ids[-1] in engine.end_tokens
        assert answer.finish_reason == ("stop" if ended else "length")
    assert lines[-1].startswith(f"asking {len(TICKETS)}/{len(TICKETS)} rows | ")


def test_a_conversation_that_does_not_fit_is_refused_before_any_work(engine: Engine) -> None:
    long = [[{"role": "user", "content": "word " * 3000}]]
    with pytest.raises(BadInput, match=r"conversation 0: .* exceed the context of 2048[\s\S]*mend: lower"):
        engine.generate(long, adapter=None, max_new_tokens=8, batch_size=4, report=quiet, stage="t")


@given(
    prefix=st.lists(st.integers(0, 5), max_size=40),
    rests=st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=9), min_size=2, max_size=6),
)
def test_the_shared_prefix_is_common_and_leaves_each_row_a_token(prefix: list[int], rests: list[list[int]]) -> None:
    prompts = [prefix + rest for rest in rests]
    shared = _shared_length(prompts)
    assert all(p[:shared] == prompts[0][:shared] for p in prompts)
    assert all(len(p) > shared for p in prompts)
    if len(prefix) >= 16:
        assert shared >= len(prefix)


@given(lengths=st.lists(st.integers(1, 9000), min_size=1, max_size=50), size=st.integers(1, 8))
def test_batches_hold_every_row_once_within_their_limits(lengths: list[int], size: int) -> None:
    prompts = [[0] * n for n in lengths]
    batches = _batches(prompts, 0, size)
    assert sorted(i for b in batches for i in b) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) <= size
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= 65_536
