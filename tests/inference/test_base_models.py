"""Where base models come from, and what a user reads when none can be had."""

import shutil
from pathlib import Path

import pytest

from finetune_platform.errors import BadInput, Unreachable
from finetune_platform.inference.base_models import conversation, count_tokens, load_tokenizer, resolve_base_model
from finetune_platform.lake import Lake
from finetune_platform.rows import Message
from finetune_platform.task import BaseModelRef

DEAD = "http://127.0.0.1:9"
"""The discard port: nothing listens there."""


def quiet(line: str) -> None:
    """Nobody listens."""


def test_a_local_folder_is_used_in_place_and_its_revision_is_its_content(tiny_model: Path, local_lake: Lake) -> None:
    ref = BaseModelRef(uri=f"./{tiny_model.name}")
    found = resolve_base_model(ref, tiny_model.parent, local_lake, tiny_model.parent / "cache", quiet)
    assert found.path == tiny_model
    assert found.name == tiny_model.name
    copy = tiny_model.parent / "copy"
    shutil.copytree(tiny_model, copy, dirs_exist_ok=True)
    again = resolve_base_model(BaseModelRef(uri=str(copy)), copy, local_lake, copy, quiet)
    assert again.revision == found.revision
    (copy / "config.json").write_text((copy / "config.json").read_text() + "\n")
    changed = resolve_base_model(BaseModelRef(uri=str(copy)), copy, local_lake, copy, quiet)
    assert changed.revision != found.revision


def test_a_folder_of_the_lake_is_fetched_once(tiny_model: Path, lake: Lake, tmp_path: Path) -> None:
    for file in sorted(p for p in tiny_model.iterdir() if p.is_file()):
        lake.put(f"base_models/tiny/{file.name}", file.read_bytes())
    lines: list[str] = []
    ref = BaseModelRef(uri="lake:base_models/tiny")
    found = resolve_base_model(ref, tmp_path, lake, tmp_path / "cache", lines.append)
    assert lines
    assert (found.path / "model.safetensors").read_bytes() == (tiny_model / "model.safetensors").read_bytes()
    lines.clear()
    assert resolve_base_model(ref, tmp_path, lake, tmp_path / "cache", lines.append) == found
    assert not lines


@pytest.mark.parametrize("uri", ["./nowhere", "lake:base_models/nowhere"])
def test_a_missing_model_names_the_place_and_three_ways_out(uri: str, local_lake: Lake, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"base_model\.uri: .*nowhere[\s\S]*one of three"):
        resolve_base_model(BaseModelRef(uri=uri), tmp_path, local_lake, tmp_path / "cache", quiet)


def test_without_network_a_hub_model_names_three_ways_out(
    local_lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", DEAD)
    ref = BaseModelRef(uri="some-org/some-model")
    with pytest.raises(Unreachable, match=r"some-org/some-model[\s\S]*one of three"):
        resolve_base_model(ref, tmp_path, local_lake, tmp_path / "cache", quiet)
    assert local_lake.list() == []


def test_without_network_a_packaged_model_names_three_ways_out(
    local_lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.setenv(name, f"{DEAD}/simple")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_RETRIES", "0")
    ref = BaseModelRef(uri="package://no-such-model==1.0/model.gguf", sha256="0" * 64)
    with pytest.raises(Unreachable, match=r"package://no-such-model[\s\S]*one of three"):
        resolve_base_model(ref, tmp_path, local_lake, tmp_path / "cache", quiet)
    assert local_lake.list() == []


@pytest.mark.parametrize(
    ("file", "message"),
    [("model.safetensors", r"no config\.json with \*\.safetensors"), ("chat_template.jinja", "no chat template")],
)
def test_an_unusable_folder_says_what_is_missing(
    file: str, message: str, tiny_model: Path, local_lake: Lake, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(tiny_model, broken)
    (broken / file).unlink()
    load_tokenizer.cache_clear()
    with pytest.raises(BadInput, match=message):
        resolve_base_model(BaseModelRef(uri=str(broken)), tmp_path, local_lake, tmp_path / "cache", quiet)


def test_the_system_prompt_is_added_unless_the_row_has_one() -> None:
    user = Message(role="user", content="hi")
    own = Message(role="system", content="mine")
    assert conversation("ours", [user])[0] == {"role": "system", "content": "ours"}
    assert conversation("ours", [own, user])[0] == {"role": "system", "content": "mine"}
    assert conversation("", [user]) == [{"role": "user", "content": "hi"}]


def test_tokens_are_counted_as_rendered(tiny_model: Path) -> None:
    chat: list[dict[str, object]] = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    tokenizer = load_tokenizer(tiny_model)
    rendered, plain = len(tokenizer.apply_chat_template(chat)["input_ids"]), len(tokenizer("hi ho").input_ids)
    assert count_tokens(tiny_model, [chat, "hi ho", chat]) == [rendered, plain, rendered]
