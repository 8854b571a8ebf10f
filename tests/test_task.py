"""The task file: what is accepted, and that every mistake is told with file, line, field and what would be right."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finetune_platform.commands.init import PLACEHOLDER, template
from finetune_platform.errors import BadInput
from finetune_platform.task import Task
from finetune_platform.task_file import find_tasks, load_task

DEMO = Path(__file__).parent.parent / "tasks" / "contract_entities.yaml"

MINIMAL = """\
name: cities
description: Names the city of a sentence.
base_model: org/model
system_prompt: Name the city.
baseline_prompt: Which city is named?
sources:
  - uri: data/cities.jsonl
    format: messages
"""


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str | bytes], Path]:
    def write_file(content: str | bytes) -> Path:
        path = tmp_path / "cities.yaml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write_file


def problems(path: Path) -> list[str]:
    with pytest.raises(BadInput) as failure:
        load_task(path)
    assert failure.value.mend
    return failure.value.problem.splitlines()


def test_the_demo_task_is_right() -> None:
    task = load_task(DEMO)
    assert task.name == "contract_entities"
    assert task.folder == DEMO.parent


def test_the_template_is_right_as_written(write: Callable[[str], Path]) -> None:
    task = load_task(write(template().replace(PLACEHOLDER, "cities")))
    assert task.name == "cities" and task.sources[1].uri == "lake:cities/raw/"


def test_the_template_says_the_defaults_that_it_comments_out() -> None:
    """A comment such as `# seed: 0` must not lie when the default changes."""
    told = {
        ("curation", "max_line_mb"),
        ("curation", "min_rows"),
        ("curation", "max_rejected_share"),
        ("evaluation", "batch_size"),
        ("evaluation", "few_shot_examples"),
        ("evaluation", "side_by_side"),
        ("cost", "label"),
    }
    stage = {"warmup_ratio", "weight_decay", "max_grad_norm", "save_steps", "save_total_limit", "eval_steps", "dtype"}
    default = Task.model_validate({**yaml.safe_load(MINIMAL)}).model_dump()
    text = template()
    for group, key in told:
        assert re.search(rf"# {key}: {default[group][key]}(\s|$)", text, re.M), key
    for key in stage | {"gradient_accumulation_steps", "lr_scheduler_type"}:
        assert re.search(rf"# {key}: {default['training']['stages'][0][key]}(\s|$)", text, re.M), key


def test_every_key_of_the_model_is_explained_by_the_template() -> None:
    text = template()
    for group in ("curation", "evaluation", "cost"):
        for key in Task.model_fields[group].annotation.model_fields:  # type: ignore[union-attr]
            assert re.search(rf"\b{key}:", text), f"{group}.{key}"
    for key in Task.model_fields.keys() - {"path"}:
        assert re.search(rf"^(# )?{key}:", text, re.M), key


@pytest.mark.parametrize(
    ("content", "line", "told"),
    [
        (MINIMAL + "owner: [team:x]\n", 9, 'owner: unknown key; did you mean "owners"?'),
        (MINIMAL + "curation:\n  max_token: 5\n", 10, 'curation.max_token: unknown key; did you mean "max_tokens"?'),
        (MINIMAL + "zzz: 1\n", 9, "zzz: unknown key"),
        (MINIMAL + "curation: {max_tokens: many}\n", 9, "curation.max_tokens: Input should be a valid integer"),
        (MINIMAL + "curation:\n  seed: 1\n  max_tokens: -1\n", 11, "greater than 0 (it is -1)"),
        (MINIMAL.replace("description: Names the city of a sentence.\n", ""), 1, "description: this key is missing"),
        (MINIMAL.replace("    format: messages\n", ""), 7, "sources.0.format: this key is missing"),
        (MINIMAL.replace("messages", "message"), 8, '\'message\' is not one of messages, prompt_completion, csv, '
         'input_ideal, preference, unpaired_preference, text; did you mean "messages"?'),
        (MINIMAL.replace("cities\n", "Cities!\n", 1), 1, "name: String should match pattern"),
        (MINIMAL + "owners: [me]\n", 9, 'owner "me" is neither an e-mail address nor "team:NAME"'),
        (MINIMAL.replace("format: messages", "format: csv"), 7, "columns: goes with format: csv"),
        (MINIMAL.replace("org/model", "package://a==1/b.gguf"), 3, "needs sha256"),
        (MINIMAL + "path: x\n", None, "path: unknown key"),
        (MINIMAL + "schedule: {cron: daily}\n", 9, '"daily" is not a five-field cron expression'),
        (MINIMAL + "schedule: {cron: '0 3 * * 1', timezone: Europe/Berlinn}\n", 9, 'did you mean "Europe/Berlin"?'),
        (MINIMAL + "curation: {validation_share: 0.5, test_share: 0.45}\n", 9, "at least a tenth for training"),
        (MINIMAL + "curation:\n  strata:\n    - {field: task_type, value: x, prompt_matches: '('}\n", 11,
         "not a regular expression"),
        ("- a\n- b\n", 1, "a task file is a mapping"),
        ("", 1, "a task file is a mapping"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_its_line(
    write: Callable[[str], Path], content: str, line: int | None, told: str
) -> None:
    path = write(content)
    (problem,) = problems(path)
    assert problem.startswith(f"{path}:{line}: " if line else f"{path}: ")
    assert told in problem


GATE = "evaluation:\n  metrics: [exact_match]\n  gates:\n    - {%s}\n"


@pytest.mark.parametrize(
    ("gate", "told"),
    [
        ("metric: exact_match", "either threshold or max_regression_vs"),
        ("metric: exact_match, threshold: 0.5, max_regression_vs: trivial", "either threshold or max_regression_vs"),
        ("metric: exact_matc, threshold: 0.5", 'did you mean "exact_match"?'),
        ("metric: token_f1, threshold: 0.5", '"token_f1" is not among metrics'),
        (
            "metric: exact_match, threshold: 0.5, slice: long",
            'slice is "all", "task_type=…" or "difficulty=…" or "label_source=…"',
        ),
        ("metric: exact_match, max_regression_vs: base", "is not one of champion, prompted, few_shot, trivial"),
    ],
)
def test_a_gate_must_fit_the_metrics(write: Callable[[str], Path], gate: str, told: str) -> None:
    (problem,) = problems(write(MINIMAL + GATE % gate))
    assert told in problem


@pytest.mark.parametrize(
    ("evaluation", "told"),
    [
        ("{metrics: [entity_f1], primary_metric: entity_f1}", "metric entity_f1 needs entities:"),
        ("{metrics: [valid_format], primary_metric: valid_format}", "metric valid_format needs output_pattern:"),
        ("{metrics: [exactmatch]}", 'metric "exactmatch" is not known; did you mean "exact_match"?'),
        ("{metrics: [token_f1]}", '"exact_match" is not among metrics'),
    ],
)
def test_metrics_must_have_what_they_need(write: Callable[[str], Path], evaluation: str, told: str) -> None:
    (problem,) = problems(write(MINIMAL + f"evaluation: {evaluation}\n"))
    assert told in problem


def test_a_metric_of_ones_own_is_accepted(write: Callable[[str], Path]) -> None:
    task = load_task(
        write(MINIMAL + "evaluation: {metrics: ['my.metrics:score'], primary_metric: 'my.metrics:score'}\n")
    )
    assert task.evaluation.primary_metric == "my.metrics:score"


def test_all_mistakes_are_told_at_once(write: Callable[[str], Path]) -> None:
    path = write(MINIMAL + "owner: []\ncuration:\n  sed: 1\ntraining:\n  stages:\n    - {peft: {rank: 4}}\n")
    assert {problem.split(": ")[0] for problem in problems(path)} == {f"{path}:{line}" for line in (9, 11, 14)}


def test_bytes_that_are_not_utf8(write: Callable[[bytes], Path]) -> None:
    (problem,) = problems(write(MINIMAL.encode() + b"# caf\xe9\n"))
    assert f"byte {len(MINIMAL) + 5} is not UTF-8" in problem


def test_broken_yaml_names_its_line(write: Callable[[str], Path]) -> None:
    path = write(MINIMAL + "curation: {a: 1\nx: [\n")
    (problem,) = problems(path)
    assert problem.startswith(f"{path}:1") and "not YAML" in problem


def test_a_missing_file_names_the_nearest(write: Callable[[str], Path]) -> None:
    path = write(MINIMAL)
    (problem,) = problems(path.with_name("citys.yaml"))
    assert 'did you mean "cities.yaml"?' in problem


def test_two_files_of_one_name(tmp_path: Path) -> None:
    for name in ("a.yaml", "b.yml"):
        (tmp_path / name).write_text(MINIMAL)
    with pytest.raises(BadInput, match=r"b\.yml: name: cities is taken by .*a\.yaml"):
        find_tasks(tmp_path)


def test_tasks_of_a_folder_by_name(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(MINIMAL.replace("name: cities", "name: b_task"))
    (tmp_path / "y.yml").write_text(MINIMAL.replace("name: cities", "name: a_task"))
    (tmp_path / "notes.txt").write_text("not a task")
    assert [task.name for task in find_tasks(tmp_path)] == ["a_task", "b_task"]
    assert find_tasks(tmp_path / "absent") == []


KEYS = [
    (number, match["key"])
    for number, line in enumerate(DEMO.read_text().splitlines(), start=1)
    if (match := re.match(r"^\s*(?:- )?(?P<key>[a-z_]+):(\s|$)", line))
]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_misspelt_key_is_reported_at_its_line_with_the_right_one(tmp_path: Path, data: st.DataObject) -> None:
    """One letter more, one less, or two exchanged, in any key of the demo's file."""
    number, key = data.draw(st.sampled_from(KEYS))
    wrong = data.draw(misspelt(key))
    lines = DEMO.read_text().splitlines()
    lines[number - 1] = re.sub(rf"\b{key}:", f"{wrong}:", lines[number - 1], count=1)
    path = tmp_path / "task.yaml"
    path.write_text("\n".join(lines))
    told = problems(path)
    here = [problem for problem in told if problem.startswith(f"{path}:{number}: ")]
    assert any(f'{wrong}: unknown key; did you mean "{key}"?' in problem for problem in here), told


@st.composite
def misspelt(draw: Any, key: str) -> str:
    place = draw(st.integers(0, len(key) - 1))
    letter = draw(st.sampled_from("abcdefghijklmnopqrstuvwxyz_"))
    swapped = key[:place] + key[place + 1 : place + 2] + key[place] + key[place + 2 :]
    kinds = [key[:place] + letter + key[place:], swapped]
    if len(key) > 3:
        kinds.append(key[:place] + key[place + 1 :])
    known = {k for _, k in KEYS} | {"r", "name", "min_n", "seed"}
    return str(draw(st.sampled_from(kinds).filter(lambda word: word != key and word not in known)))
