"""Another base model measured beside the recorded answers of the old one: what is recommended and published."""

import json
from pathlib import Path
from typing import Any

import pytest
from recorded_chain import Answer, Chain, RecordedEngine, gold_of, good_adapter, number_in

from finetune_platform.errors import BadInput
from finetune_platform.evaluation.evaluate import evaluate
from finetune_platform.evaluation.migration import Migration, Standing, measure, proposal_id_of
from finetune_platform.evaluation.proposal import publish_proposal
from finetune_platform.inference.base_models import ResolvedModel
from finetune_platform.manifests import ProposalManifest
from finetune_platform.model_ref import BaseModelRef
from finetune_platform.task import Task

NEW = ResolvedModel(Path("unused"), "tiny", "r2-and-more-digits", "c" * 64)


def standing(task: Task, chain: Chain) -> Standing:
    """A champion that was right nine times of ten on the old base, whose prompt was of no use."""
    engine = RecordedEngine(good_adapter)
    evaluation = evaluate(
        task, chain.dataset, chain.training(), None, engine, chain.lake, chain.folder / "work", lambda _: None
    )
    return Standing(chain.champion("tr-1"), chain.dataset, evaluation)


def measured(task: Task, chain: Chain, answer: Answer, misfit: str = "", model: ResolvedModel = NEW) -> Migration:
    engine, work = RecordedEngine(answer), chain.folder / "work"
    return measure(task, standing(task, chain), model, engine, lambda adapter: misfit, chain.lake, work, lambda _: None)


def as_good(question: str, adapter: Path | None) -> str:
    """Right nine times of ten with the adapter, on other rows than before."""
    if adapter is None:
        return "I cannot tell"
    return gold_of(number_in(question)) if number_in(question) % 10 != 2 else "[Zed - PERSON]"


def perfect_prompt(question: str, adapter: Path | None) -> str:
    return gold_of(number_in(question)) if adapter is None else "none"


def useless(question: str, adapter: Path | None) -> str:
    return "I cannot tell"


@pytest.mark.parametrize(
    ("answer", "misfit", "recommendation", "headline"),
    [
        (as_good, "", "no_difference", "No reason to move to tiny@r2-and-more-: no difference in entity F1 that"),
        (useless, "", "stay", "Stay on the old base: entity F1 of the champion's adapter on the new base is 0."),
        (
            perfect_prompt,
            "",
            "retrain",
            "Train anew on tiny@r2-and-more-: entity F1 of the long prompt on the new base is",
        ),
        (perfect_prompt, "a layer is missing", "retrain", "Train anew on tiny@r2-and-more-: entity F1 of the long"),
        (as_good, "a layer is missing", "stay", "Stay on the old base: the champion's adapter does not fit tiny@r2"),
    ],
)
def test_the_recommendation_follows_the_evidence(
    task: Task, chain: Chain, answer: Answer, misfit: str, recommendation: str, headline: str
) -> None:
    found = measured(task, chain, answer, misfit)
    assert (found.recommendation, found.headline[: len(headline)]) == (recommendation, headline)
    assert found.rows == 120
    expected = {"champion_old", "prompted_old", "prompted_new"} | (set() if misfit else {"champion_new"})
    assert set(found.levels) == expected
    assert found.levels["champion_old"]["exact_match"].value == pytest.approx(0.9)


def test_the_old_base_is_not_asked_again(task: Task, chain: Chain) -> None:
    engine = RecordedEngine(as_good)
    place = standing(task, chain)
    for _ in range(2):
        measure(task, place, NEW, engine, lambda adapter: "", chain.lake, chain.folder / "work", lambda _: None)
    # Two arms on the new base, once: a killed measurement goes on where it was.
    assert sorted(engine.stages) == ["evaluating champion on test", "evaluating prompted on test"]


def test_differences_are_paired_and_their_intervals_hold_together(task: Task, chain: Chain) -> None:
    found = measured(task, chain, as_good)
    [one] = [d for d in found.differences if (d.arm, d.reference) == ("champion_new", "champion_old")]
    exact = one.metrics["exact_match"]
    # Twelve rows lost and twelve won, of 120.
    assert exact.value == 0.0 and exact.lower is not None and exact.upper is not None
    # A single interval of 95% would end at 0.08.
    assert -0.14 < exact.lower < -0.09 and exact.upper == pytest.approx(-exact.lower, abs=1e-6)


def test_a_changed_template_is_told(task: Task, chain: Chain) -> None:
    other = NEW._replace(chat_template_sha256="d" * 64)
    assert any("chat template has changed" in note for note in measured(task, chain, as_good, model=other).notes)


def test_a_benchmark_that_the_champion_was_not_measured_on_is_told(task: Task, chain: Chain) -> None:
    place = standing(task, chain)
    benchmarks = [task.evaluation.benchmarks[0].model_copy(update={"name": "another"})]
    changed = task.model_copy(update={"evaluation": task.evaluation.model_copy(update={"benchmarks": benchmarks})})
    with pytest.raises(BadInput, match=r"no answers to the rows of benchmark another(?s:.*)--from evaluation_report"):
        measure(changed, place, NEW, RecordedEngine(as_good), lambda a: "", chain.lake, chain.folder, lambda _: None)


def published(task: Task, chain: Chain, found: Migration, **changes: Any) -> ProposalManifest:
    ref = task.base_model.model_copy(update=changes)
    return publish_proposal(chain.lake, task, found, BaseModelRef.model_validate(ref.model_dump()), {})


def test_a_proposal_is_published_once_with_a_page_that_anybody_can_read(task: Task, chain: Chain) -> None:
    found = measured(task, chain, perfect_prompt).model_copy(update={"misfit": "<script>alert(1)</script>"})
    manifest = published(task, chain, found, revision="abc")
    assert (
        manifest.artifact_id == proposal_id_of("people", NEW)
        and manifest.path == f"people/migrations/{found.proposal_id}"
    )
    assert manifest.next_steps[0] == "To move: write base_model.revision: abc into the task file."
    assert "tier: warn" in manifest.next_steps[-1]
    assert published(task, chain, found.model_copy(update={"headline": "later"})) == manifest
    files = {info.path.rpartition("/")[2] for info in chain.lake.list(manifest.path)}
    assert files == {"proposal.html", "proposal.json", "manifest.json"}
    page = chain.lake.get(f"{manifest.path}/proposal.html").decode()
    assert (
        manifest.headline in page.replace("&#39;", "'") and "<script" not in page and "Nothing moves by itself" in page
    )
    assert Migration.model_validate(json.loads(chain.lake.get(f"{manifest.path}/proposal.json"))) == found


def test_where_the_address_stays_the_steps_say_what_that_means(task: Task, chain: Chain) -> None:
    manifest = published(task, chain, measured(task, chain, useless))
    assert (
        manifest.next_steps[0].startswith("The same address holds it now")
        and "old files back" in manifest.next_steps[0]
    )
