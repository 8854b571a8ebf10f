"""Metrics as a task file names them."""

from pathlib import Path

import pytest

from finetune_platform.errors import BadInput
from finetune_platform.evaluation.metrics import Metric, Part, build_metrics
from finetune_platform.task import Evaluation

SETTINGS = {
    "output_pattern": r"^(none|\[.+ - (PERSON|PLACE)\])$",
    "entities": {"types": ["PERSON", "PLACE"], "empty": "none"},
}


def metric(name: str) -> Metric:
    return build_metrics(Evaluation.model_validate({**SETTINGS, "metrics": [name], "primary_metric": name}))[0]


def test_entity_f1_of_a_corpus_is_two_tp_over_two_tp_and_errors() -> None:
    score = metric("entity_f1").score
    rows = [
        ("[Joe - PERSON, Rome - PLACE]", "[Joe - PERSON]"),
        ("[Rome - PERSON]", "[Rome - PLACE]"),
        ("none", "none"),
    ]
    parts = [score(answer, gold) for answer, gold in rows]
    assert parts == [Part(2, 3), Part(0, 2), Part(0, 0)]
    assert sum(p.numerator for p in parts) / sum(p.denominator for p in parts) == pytest.approx(2 / 5)


def test_a_row_with_nothing_to_find_and_nothing_claimed_is_right_by_itself() -> None:
    assert metric("entity_f1").score("none", "none").value == 1.0


@pytest.mark.parametrize(
    ("answer", "valid"),
    [("none", 1), (" [Joe - PERSON]\n", 1), ("[Joe]", 0), ("none at all", 0), ("Answer: none", 0), ("", 0)],
)
def test_valid_format_matches_the_whole_answer(answer: str, valid: int) -> None:
    assert metric("valid_format").score(answer, "none") == Part(valid, 1)


@pytest.fixture
def my_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_metrics.py").write_text(
        'def same_length(answer, gold):\n    """Whether both are equally long."""\n'
        "    return len(answer) == len(gold)\n\n"
        "def too_large(answer, gold):\n    return 7\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.usefixtures("my_metrics")
def test_a_custom_metric_is_imported_and_described_by_its_docstring() -> None:
    custom = metric("my_metrics:same_length")
    assert (custom.title, custom.meaning) == ("same length", "Whether both are equally long.")
    assert custom.score("abc", "xyz") == Part(1.0, 1.0)


@pytest.mark.usefixtures("my_metrics")
@pytest.mark.parametrize(
    ("name", "answered", "complaint"),
    [
        ("my_metrics:too_large", True, "returned 7"),
        ("my_metrics:nothing", False, "has no function nothing"),
        ("no_such_module:f", False, "No module named"),
    ],
)
def test_a_broken_custom_metric_is_named(name: str, answered: bool, complaint: str) -> None:
    with pytest.raises(BadInput, match=complaint) as caught:
        built = metric(name)
        if answered:
            built.score("a", "b")
    assert name in str(caught.value)
