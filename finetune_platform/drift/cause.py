"""What is most probably behind an alarm, by who speaks: questions, answers or the service. A suspicion only."""

from collections.abc import Mapping
from typing import Literal, NamedTuple

from finetune_platform.drift.reference import ANSWERS, LABELS_OF_ANSWERS

SPEAKS = 20.0
"""Evidence from which a channel counts as changed. Far below the alarm's limit: "unchanged" is said of those that say
nothing, not of those that are still making up their minds."""

SERVICE = frozenset({"errors", "latency"})
FORMAT = "format"
ABOUT_ANSWERS = frozenset({*ANSWERS, *LABELS_OF_ANSWERS})

MOST_OF_NOVEL, FEW_OF_OTHERS = 0.8, 0.5
"""A change is one tenant's where so much of the novel rows and at most so much of the others are that tenant's."""

Kind = Literal["input shift", "output shift", "upstream change"]


class Cause(NamedTuple):
    """What is suspected.

    Attributes:
        because: One sentence.
    """

    kind: Kind
    because: str


class TenantShare(NamedTuple):
    """The tenant that most novel rows are of, and its share among them and among all other rows of the same time."""

    tenant: str
    of_novel: float
    of_others: float


def suspected_cause(evidence: Mapping[str, float], tenant: TenantShare | None) -> Cause | None:
    """The cause that fits.

    Args:
        evidence: E-value of each channel, by name.
        tenant: None where there is one tenant, or nothing novel.

    Returns:
        None where no channel speaks for itself.
    """
    speaking = {name for name, e_value in evidence.items() if e_value >= SPEAKS}
    questions = sorted(speaking - ABOUT_ANSWERS, key=lambda name: -evidence[name])
    if questions:
        if tenant and tenant.of_novel >= MOST_OF_NOVEL and tenant.of_others <= FEW_OF_OTHERS:
            return Cause(
                "upstream change",
                f"{tenant.of_novel:.0%} of the novel questions come from {tenant.tenant}, {tenant.of_others:.0%} of "
                "the others: one caller changed what it sends.",
            )
        return Cause("input shift", f"The questions changed: {_list(questions)}.")
    service, answers = (
        sorted(names, key=lambda name: -evidence[name])
        for names in (speaking & SERVICE, speaking & ABOUT_ANSWERS - SERVICE - {FORMAT})
    )
    if service:
        return Cause("upstream change", f"{_list(service).capitalize()} changed while the questions did not.")
    if answers:
        return Cause("output shift", f"The answers changed while the questions did not: {_list(answers)}.")
    if FORMAT in speaking:
        return Cause("upstream change", "Format changed while neither the questions nor the texts of answers did.")
    return None


def _list(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
