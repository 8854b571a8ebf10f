"""Rows of a dataset as the trainer takes them: token ids, and how much each token counts in the loss.

Supervised is every assistant turn that has a weight: its content and its end token. Where a turn begins and ends
is found by rendering the conversation up to it, so nothing here knows any model's template.
"""

import io
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from finetune_platform.errors import BadInput, PermanentError
from finetune_platform.inference.base_models import conversation
from finetune_platform.lake import Lake
from finetune_platform.manifests import DatasetManifest
from finetune_platform.rows import Example, Kind, Split

if TYPE_CHECKING:
    from transformers import BatchEncoding, PreTrainedTokenizerBase

ANOTHER_TEMPLATE = "use a base model whose chat template renders a conversation turn by turn"
TOKENISE_AT_ONCE = 1000


class TrainRow(NamedTuple):
    """One tokenised conversation, or a piece of a text (`documents.py`).

    Attributes:
        input_ids: Tokens of the whole conversation, template included.
        weights: For each token, how much predicting it counts in the loss; 0 for what is only context.
        place: Where the row came from, for a person.
    """

    input_ids: list[int]
    weights: list[float]
    place: str

    @property
    def supervised(self) -> int:
        """Tokens that count."""
        return sum(weight > 0 for weight in self.weights)

    @property
    def inputs(self) -> int:
        """Tokens the model must read: those before the last one that counts."""
        return max((i for i, weight in enumerate(self.weights) if weight > 0), default=0)


class Turn(NamedTuple):
    """A supervised assistant turn: characters `start` to `end` of the rendered conversation."""

    start: int
    end: int
    weight: float


class Rendered(NamedTuple):
    text: str
    turns: list[Turn]


def read_split(lake: Lake, dataset: DatasetManifest, split: Split, kind: Kind = "sft") -> list[Example]:
    """The rows of one kind in one split of a dataset, in their stored order."""
    import pyarrow.parquet as pq

    table = pq.read_table(io.BytesIO(lake.get(f"{dataset.path}/{split}.parquet")), filters=[("kind", "==", kind)])
    return [Example.from_record(row) for row in table.to_pylist()]


def tokenise(
    examples: Sequence[Example], tokenizer: "PreTrainedTokenizerBase", system_prompt: str, max_length: int
) -> list[TrainRow]:
    """Token ids and loss weights of every row, in order.

    Args:
        examples: Conversations.
        tokenizer: A fast tokenizer with a chat template.
        system_prompt: What opens every conversation without a system message.
        max_length: Most tokens of a row.

    Raises:
        BadInput: The template refuses a row, or a row is longer than `max_length`.
        PermanentError: The template does not render turn by turn, or ends a turn with no end token.
    """
    if not tokenizer.is_fast:
        raise PermanentError(
            f"the tokenizer {type(tokenizer).__name__} does not tell where its tokens come from",
            "use a base model with a tokenizer.json",
        )
    rendered = [_rendered(example, tokenizer, system_prompt) for example in examples]
    rows: list[TrainRow] = []
    for start in range(0, len(examples), TOKENISE_AT_ONCE):
        part = slice(start, start + TOKENISE_AT_ONCE)
        rows += _tokenised(rendered[part], [place_of(e) for e in examples[part]], tokenizer)
    _refuse_long(rows, max_length)
    return rows


def _rendered(example: Example, tokenizer: "PreTrainedTokenizerBase", system_prompt: str) -> Rendered:
    messages = conversation(system_prompt, example.messages)
    plain = [{k: v for k, v in message.items() if k != "weight"} for message in messages]

    def render(count: int, open_turn: bool) -> str:
        from jinja2 import TemplateError

        try:
            text = tokenizer.apply_chat_template(
                plain[:count],
                tools=example.tools,
                add_generation_prompt=open_turn,
                tokenize=False,
            )
        except (TemplateError, TypeError) as error:
            # Templates add strings to `content` without looking: a message without content ends in a TypeError.
            raise BadInput(
                f"{place_of(example)}: the base model's chat template refuses these messages: {error}",
                "change the row, or use a base model whose template takes it",
            ) from error
        return str(text)

    whole = render(len(plain), False)
    turns = []
    for i, message in enumerate(messages):
        weight = float(str(message.get("weight", 1.0)))
        if message["role"] == "assistant" and weight > 0:
            start = _opening(render(i, True), whole, place_of(example), i)
            end = len(whole) if i == len(plain) - 1 else _opening(render(i + 1, False), whole, place_of(example), i)
            turns.append(Turn(start, end, weight))
    return Rendered(whole, turns)


def _opening(beginning: str, whole: str, place: str, message: int) -> int:
    """Length of `beginning`, which must open `whole`."""
    if whole.startswith(beginning):
        return len(beginning)
    same = next((i for i, (a, b) in enumerate(zip(beginning, whole, strict=False)) if a != b), len(whole))
    raise PermanentError(
        f"{place}: messages[{message}]: the chat template renders the conversation so far differently once more "
        f"follows (…{beginning[max(same - 20, 0) : same + 20]!r} becomes …{whole[max(same - 20, 0) : same + 20]!r}), "
        "so what the model would be served is not what it would be trained on",
        ANOTHER_TEMPLATE,
    )


def _tokenised(
    rendered: Sequence[Rendered], places: Sequence[str], tokenizer: "PreTrainedTokenizerBase"
) -> list[TrainRow]:
    """Rows from rendered conversations.

    A prompt is served on its own, so it is tokenised on its own: no token may reach from a prompt into its answer.
    """
    pieces, owners = [], []
    for row, (text, turns) in enumerate(rendered):
        cuts = [0, *(turn.start for turn in turns), len(text)]
        pieces += [text[a:b] for a, b in itertools.pairwise(cuts)]
        owners += [(row, a) for a in cuts[:-1]]
    cut = _encode(pieces, tokenizer)
    uncut = _encode([text for text, _ in rendered], tokenizer)
    ids: list[list[int]] = [[] for _ in rendered]
    offsets: list[list[tuple[int, int]]] = [[] for _ in rendered]
    for piece, (row, shift) in enumerate(owners):
        ids[row] += cut["input_ids"][piece]
        offsets[row] += [(a + shift, b + shift) for a, b in cut["offset_mapping"][piece]]
    rows = []
    for row, (text, turns) in enumerate(rendered):
        if ids[row] != uncut["input_ids"][row] and tokenizer.decode(ids[row]) != tokenizer.decode(
            uncut["input_ids"][row]
        ):
            # Some tokenizers open every text with a space of their own: there the uncut tokens are the served ones.
            ids[row], offsets[row] = uncut["input_ids"][row], uncut["offset_mapping"][row]
            _refuse_straddling(offsets[row], turns, places[row])
        rows.append(TrainRow(ids[row], _weights(ids[row], offsets[row], text, turns, tokenizer), places[row]))
    return rows


def _encode(texts: list[str], tokenizer: "PreTrainedTokenizerBase") -> "BatchEncoding":
    return tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)


def _refuse_straddling(offsets: Sequence[tuple[int, int]], turns: Sequence[Turn], place: str) -> None:
    if any(a < turn.start < b for turn in turns for a, b in offsets):
        raise BadInput(
            f"{place}: the answer's first characters and the prompt's last ones make one token",
            "remove the white space that the answer begins with",
        )


def _weights(
    ids: Sequence[int],
    offsets: Sequence[tuple[int, int]],
    text: str,
    turns: Sequence[Turn],
    tokenizer: "PreTrainedTokenizerBase",
) -> list[float]:
    """The weight of each token: a turn's tokens up to its end token; what the template writes after that is context."""
    ends = {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}
    ends |= set(tokenizer.all_special_ids)
    weights = [0.0] * len(ids)
    for turn in turns:
        inside = [i for i, (a, b) in enumerate(offsets) if turn.start <= a and b <= turn.end]
        last = max((i for i in inside if ids[i] in ends), default=None)
        if last is None:
            raise PermanentError(
                f"the chat template ends an assistant turn with no end token: {text[turn.start : turn.end][-60:]!r}; "
                "a model trained on it would never stop",
                "use an instruct model whose chat template closes every turn",
            )
        for i in inside:
            weights[i] = turn.weight if i <= last else 0.0
    return weights


def _refuse_long(rows: Sequence[TrainRow], max_length: int) -> None:
    long = [row for row in rows if len(row.input_ids) > max_length]
    if long:
        places = "; ".join(f"{row.place}: {len(row.input_ids)} tokens" for row in long[:3])
        raise BadInput(
            f"{places}{' …' if len(long) > 3 else ''}: {len(long)} of {len(rows)} rows are longer than "
            f"max_length {max_length}, and cutting them would teach the model to stop in mid-sentence",
            "raise training.stages[0].max_length, or lower curation.max_tokens to leave such rows out",
        )


def place_of(example: Example) -> str:
    """Where a row came from, for a person."""
    return f"{example.source_uri}:{example.source_row}"
