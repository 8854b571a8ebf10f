"""Categories in words: what a channel's number of a category means to a person."""

from collections.abc import Sequence

from finetune_platform.drift.channels import NOVELTY_QUANTILES, Channel, Labelled, Measured, Mix, Novelty
from finetune_platform.drift.null_bounds import Vectors
from finetune_platform.drift.rows import TrafficRow

SHORT = 60
UNITS = {"latency": " ms", "length of questions": " letters", "length of answers": " letters"}


def category_name(channel: Channel, category: int, rows: Sequence[TrafficRow], vectors: Vectors) -> str:
    """A category in words.

    Args:
        channel: Of the reference.
        category: One of its numbers.
        rows: The reference's: a kind of question is named by the question nearest to its centre.
        vectors: Of these rows.
    """
    match channel:
        case Novelty():
            return _novelty(category)
        case Mix():
            return f"like “{short(rows[int((vectors @ channel.centres[category]).argmax())].question)}”"
        case Measured():
            return _measured(channel, category)
        case Labelled():
            return short(channel.labels[category]) or "empty" if category < len(channel.labels) else "another"


def short(text: str, most: int = SHORT) -> str:
    """The beginning of a text, on one line; what would steer a terminal is left out."""
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text[: 4 * most]).split())
    return line if len(line) <= most else f"{line[: most - 1].rstrip()}…"


def _novelty(category: int) -> str:
    if category == 0:
        return "as familiar as half of the reference"
    return f"stranger than {NOVELTY_QUANTILES[category - 1]:.1%} of the reference".replace(".0%", "%")


def _measured(channel: Measured, category: int) -> str:
    edges = channel.edges
    if category > len(edges):
        return "none"
    if channel.name == "unknown words":
        low, high = (f"{edge:.0%}" for edge in (edges[max(category - 1, 0)], edges[min(category, len(edges) - 1)]))
    else:
        low, high = (f"{edge:,.0f}" for edge in (edges[max(category - 1, 0)], edges[min(category, len(edges) - 1)]))
    unit = UNITS.get(channel.name, "")
    if category == 0:
        return f"up to {high}{unit}"
    return f"more than {low}{unit}" if category == len(edges) else f"{low} to {high}{unit}"
