"""Which tokens are supervised: exactly what the model must say, whatever the template."""

import shutil

import pytest
from hypothesis import example as hypothesis_example
from hypothesis import given, settings
from hypothesis import strategies as st
from ticket_rows import example

from finetune_platform.errors import BadInput, PermanentError
from finetune_platform.inference.base_models import conversation, load_tokenizer
from finetune_platform.rows import Example, Message
from finetune_platform.training.rows import TrainRow, tokenise

SYSTEM = "Name the topic."
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="<|>"), max_size=40)
CONVERSATIONS = st.lists(st.tuples(TEXT, TEXT, st.sampled_from([None, 0.0, 0.5, 1.0])), min_size=1, max_size=3)


@pytest.fixture(scope="module")
def tokenizer(tiny_model):
    return load_tokenizer(tiny_model)


def spans(row: TrainRow) -> list[tuple[list[int], float]]:
    """Runs of tokens of one weight above 0."""
    found: list[tuple[list[int], float]] = []
    previous = 0.0
    for token, weight in zip(row.input_ids, row.weights, strict=True):
        if weight and weight == previous:
            found[-1][0].append(token)
        elif weight:
            found.append(([token], weight))
        previous = weight
    return found


@settings(max_examples=60, deadline=None)
@given(turns=CONVERSATIONS)
def test_supervised_tokens_are_the_weighted_answers_with_their_end_tokens(tokenizer, turns):
    messages = []
    for question, answer, weight in turns:
        messages += [Message(role="user", content=question), Message(role="assistant", content=answer, weight=weight)]
    [row] = tokenise([Example(messages=messages, source_uri="x", source_row=1)], tokenizer, SYSTEM, 10_000)

    def known(text: str) -> str:
        """The text less the few control characters that this vocabulary cannot write."""
        return tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids)

    weighted = [(answer, 1.0 if weight is None else weight) for _, answer, weight in turns if weight != 0]
    expected = [(known(f"{answer}<|im_end|>"), weight) for answer, weight in weighted]
    assert [(tokenizer.decode(tokens), weight) for tokens, weight in spans(row)] == expected
    plain = [{"role": m.role, "content": m.content} for m in messages]
    whole = tokenizer.apply_chat_template([{"role": "system", "content": SYSTEM}, *plain], tokenize=False)
    assert tokenizer.decode(row.input_ids) == known(whole)


@settings(max_examples=60, deadline=None)
@given(question=TEXT, answer=TEXT)
@hypothesis_example(question="Hello", answer="\nHi")  # one token would take in the prompt's last line break
def test_a_row_begins_with_the_tokens_that_are_served(tokenizer, question, answer):
    row = example(question, answer)
    [trained] = tokenise([row], tokenizer, SYSTEM, 10_000)
    served = tokenizer.apply_chat_template(
        conversation(SYSTEM, row.prompt), add_generation_prompt=True, return_dict=False
    )
    assert trained.input_ids[: len(served)] == served
    assert not any(trained.weights[: len(served)]) and trained.weights[len(served)] == 1


def test_a_row_with_its_own_system_message_keeps_it(tokenizer):
    messages = [Message(role="system", content="Be brief."), *example("Hello", "Hi").messages]
    [row] = tokenise([Example(messages=messages, source_uri="x", source_row=1)], tokenizer, SYSTEM, 100)
    text = tokenizer.decode(row.input_ids)
    assert "Be brief." in text and SYSTEM not in text


def test_rows_longer_than_the_limit_are_refused_with_their_place(tokenizer):
    rows = [example("short", "yes", 1), example("long " * 50, "yes", 7)]
    with pytest.raises(BadInput, match=r"raw/tickets.jsonl:7: \d+ tokens: 1 of 2 rows .* max_length 40"):
        tokenise(rows, tokenizer, SYSTEM, 40)


def test_a_message_the_template_cannot_render_is_named(tokenizer):
    messages = [Message(role="user", content="Hello"), Message(role="assistant")]
    with pytest.raises(BadInput, match=r"x:3: .*chat template refuses"):
        tokenise([Example(messages=messages, source_uri="x", source_row=3)], tokenizer, SYSTEM, 100)


@pytest.fixture
def with_template(tiny_model, tmp_path):
    """The tokenizer with another chat template."""

    def change(template: str):
        folder = tmp_path / "model"
        shutil.copytree(tiny_model, folder)
        (folder / "chat_template.jinja").write_text(template)
        return load_tokenizer(folder)

    return change


def test_a_template_that_rewrites_earlier_turns_is_refused(with_template):
    # As templates do that drop the reasoning of all but the last turn.
    tokenizer = with_template(
        "{% for m in messages %}{{ m.role }}{% if not loop.last %} (before){% endif %}: {{ m.content }}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
    )
    with pytest.raises(PermanentError, match="renders the conversation so far differently"):
        tokenise([example("Hello", "Hi")], tokenizer, SYSTEM, 100)


def test_a_template_without_an_end_token_is_refused(with_template):
    tokenizer = with_template(
        "{% for m in messages %}### {{ m.role }}:\n{{ m.content }}\n\n{% endfor %}"
        "{% if add_generation_prompt %}### assistant:\n{% endif %}"
    )
    with pytest.raises(PermanentError, match="would never stop"):
        tokenise([example("Hello", "Hi")], tokenizer, SYSTEM, 100)


def test_another_template_is_understood_without_being_told(with_template):
    tokenizer = with_template(
        "{% for m in messages %}[{{ m.role }}] {{ m.content | trim }}{% if m.role == 'assistant' %}<|endoftext|>"
        "{% endif %} {% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    [row] = tokenise([example("Hello", "Hi there")], tokenizer, SYSTEM, 100)
    assert [tokenizer.decode(tokens) for tokens, _ in spans(row)] == [" Hi there<|endoftext|>"]
