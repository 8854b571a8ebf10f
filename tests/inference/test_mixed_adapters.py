"""Rows of different adapters in one batch get the logits that PEFT gives each alone; other kinds are refused."""

import json
import shutil
from collections import Counter
from itertools import pairwise
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_adapters import save_adapter

from finetune_platform.errors import PermanentError
from finetune_platform.inference.adapter_files import AdapterWeights, read_adapter
from finetune_platform.inference.mixed_adapters import MOST_UNUSED, MixedAdapters
from finetune_platform.inference.ragged_model import RaggedModel, Work

PROMPTS = [[1, 50, 60, 70, 80], [1, 900], [1, 5, 5, 5, 5, 5, 5, 5], [1, 33, 44], [1, 7000, 800, 90]]
KINDS: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora": {"use_rslora": True, "r": 8, "lora_alpha": 4},
    "some layers": {"target_modules": ["q_proj", "down_proj"], "r": 2},
    "ranks": {"rank_pattern": {"v_proj": 6}, "lora_alpha": 16},
}


@pytest.fixture(scope="module")
def folders(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("adapters")
    return {
        kind: save_adapter(tiny_model, root / str(seed), seed, **options)
        for seed, (kind, options) in enumerate(KINDS.items())
    }


@pytest.fixture(scope="module")
def model(tiny_model: Path, folders: dict[str, Path]) -> RaggedModel:
    model = RaggedModel(tiny_model, "float32", "cpu", max_rows=8, max_tokens=4096)
    for kind, folder in folders.items():
        model.adapters.add(kind, read_adapter(folder, model.adapters.shapes))
    return model


@pytest.fixture(scope="module")
def expected(tiny_model: Path, folders: dict[str, Path]) -> dict[str | None, Any]:
    """PEFT's logits of each prompt's last token, for each adapter and for the base model."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    found: dict[str | None, Any] = {}
    for kind, folder in [(None, None), *folders.items()]:
        base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
        adapted = base if folder is None else PeftModel.from_pretrained(base, folder)
        adapted.eval()
        with torch.inference_mode():
            found[kind] = [adapted(input_ids=torch.tensor([p])).logits[0, -1] for p in PROMPTS]
    return found


def run(model: RaggedModel, rows: list[tuple[str | None, int]], split: int) -> Any:
    """Logits of rows (adapter, prompt), their prompts read in two steps of which the first has `split` tokens."""
    import torch

    with torch.inference_mode():
        slots = [model.cache.acquire(16) for _ in rows]
        assert None not in slots
        parts = [
            (a, slot, PROMPTS[p], min(split, len(PROMPTS[p]) - 1)) for (a, p), slot in zip(rows, slots, strict=True)
        ]
        first = [Work(a, slot, 0, prompt[:n], False) for a, slot, prompt, n in parts if n]
        if first:
            model.forward(first)
        logits = model.forward([Work(a, slot, n, prompt[n:], True) for a, slot, prompt, n in parts])
        for slot in slots:
            model.cache.release(slot)
    return logits


@settings(max_examples=25, deadline=None)
@given(
    rows=st.lists(st.tuples(st.sampled_from([None, *KINDS]), st.integers(0, 4)), min_size=1, max_size=8),
    split=st.integers(0, 7),
)
def test_each_row_gets_what_peft_gives_it_alone(
    model: RaggedModel, expected: dict[str | None, Any], rows: list[tuple[str | None, int]], split: int
) -> None:
    import torch

    logits = run(model, rows, split)
    assert len(logits) == len(rows)
    for (adapter, prompt), row in zip(rows, logits, strict=True):
        torch.testing.assert_close(row, expected[adapter][prompt], rtol=1e-4, atol=1e-4)


@settings(max_examples=100, deadline=None)
@given(
    places=st.permutations(ascii_lowercase),
    counts=st.dictionaries(st.sampled_from(ascii_lowercase), st.sampled_from([1, 1, 1, 3]), min_size=1),
    base=st.booleans(),
)
def test_the_plan_gives_every_token_its_own_adapter(places: list[str], counts: dict[str, int], base: bool) -> None:
    mixed = MixedAdapters()
    for name in places:
        mixed.add(name, AdapterWeights({}))
    tokens: dict[str | None, int] = {**counts, **({None: 2} if base else {})}
    line = [adapter for adapter in mixed.arrange(tokens) for _ in range(tokens[adapter])]
    planned: list[str | None] = [None] * len(line)
    for span in mixed.current.spans:
        used = [0] * (span.stop - span.start) if span.places == 1 else list(range(span.places))
        if span.rows is not None and span.tokens is not None:
            used = span.rows.tolist()
            assert [int(span.tokens[place]) for place in used] == list(range(len(used)))
            assert len(span.tokens) == span.places
            assert max(next_one - one for one, next_one in pairwise(used)) <= MOST_UNUSED + 1
        for i, at in enumerate(used, span.start):
            assert planned[i] is None
            planned[i] = places[span.place + at]
    assert planned == line
    assert Counter(line) == Counter(tokens)


def test_the_adapters_of_the_test_differ(expected: dict[str | None, Any]) -> None:
    firsts = [tuple(rows[0].topk(3).indices.tolist()) for rows in expected.values()]
    assert len(set(firsts)) == len(firsts)


def test_a_place_taken_over_leaves_nothing_behind(
    tiny_model: Path, folders: dict[str, Path], expected: dict[str | None, Any]
) -> None:
    """A smaller adapter in the place of a larger one, and one that leaves layers alone which the other changed."""
    import torch

    model = RaggedModel(tiny_model, "float32", "cpu", max_rows=2, max_tokens=4096)
    for kind in ("rslora", "some layers", "lora"):
        model.adapters.add(kind, read_adapter(folders[kind], model.adapters.shapes))
        torch.testing.assert_close(run(model, [(kind, 0)], 0)[0], expected[kind][0], rtol=1e-4, atol=1e-4)
        model.adapters.remove(kind)


def test_an_adapter_that_changes_more_layers_may_come_to_any_place(
    tiny_model: Path, folders: dict[str, Path], expected: dict[str | None, Any]
) -> None:
    """The others keep theirs, also in the layers that none of them changed before."""
    import torch

    model = RaggedModel(tiny_model, "float32", "cpu", max_rows=4, max_tokens=4096)
    few, many = (read_adapter(folders[kind], model.adapters.shapes) for kind in ("some layers", "lora"))
    for name in ("first", "second", "third"):
        model.adapters.add(name, few)
    model.adapters.remove("first")
    model.adapters.add("fourth", many)
    for rows in ([("third", 0)], [("second", 1), ("third", 1), ("fourth", 1)]):
        kinds = ["lora" if name == "fourth" else "some layers" for name, _ in rows]
        for logits, kind, (_, prompt) in zip(run(model, rows, 7), kinds, rows, strict=True):
            torch.testing.assert_close(logits, expected[kind][prompt], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"use_dora": True}, "use_dora=True"),
        ({"bias": "lora_only"}, "bias='lora_only'"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights='pissa'"),
        ({"target_modules": ["embed_tokens"]}, "embed_tokens"),
    ],
)
def test_other_kinds_are_refused_by_name(
    tiny_model: Path, model: RaggedModel, tmp_path: Path, options: dict[str, Any], named: str
) -> None:
    folder = save_adapter(tiny_model, tmp_path / "a", 1, **options)
    with pytest.raises(PermanentError, match="not supported by the in-process engine") as refused:
        read_adapter(folder, model.adapters.shapes)
    assert named in refused.value.problem


def test_damaged_and_foreign_folders_are_refused(model: RaggedModel, folders: dict[str, Path], tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    with pytest.raises(PermanentError, match="cannot be read"):
        read_adapter(tmp_path / "nowhere", model.adapters.shapes)
    broken = shutil.copytree(folders["lora"], tmp_path / "broken")
    weights = broken / "adapter_model.safetensors"
    whole = load_file(weights)
    key = next(k for k in whole if k.endswith("q_proj.lora_B.weight"))
    for tensors, match in (
        ({k: t for k, t in whole.items() if k != key}, "missing"),
        ({**whole, key: torch.zeros(3, 4)}, "do not fit"),
        ({**whole, key: whole[key] * float("nan")}, "no finite numbers"),
    ):
        save_file(tensors, weights)
        with pytest.raises(PermanentError, match=match):
            read_adapter(broken, model.adapters.shapes)
    (broken / "adapter_config.json").write_text(json.dumps({"peft_type": "LOHA"}))
    save_file(whole, weights)
    with pytest.raises(PermanentError, match="peft_type='LOHA'"):
        read_adapter(broken, model.adapters.shapes)
