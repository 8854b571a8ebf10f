"""All channels' evidence together: what one tick adds, and whether it is enough for an alarm."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from finetune_platform.drift.null_bounds import Ints, Vectors
from finetune_platform.drift.reference import Reference
from finetune_platform.drift.rows import TrafficRow
from finetune_platform.drift.wealth import Wealth

LIMIT = 365.0
"""Without drift an alarm comes, on average, no earlier than after so many ticks."""


@dataclass(frozen=True)
class Evidence:
    """What all ticks since the reference say.

    Attributes:
        ticks: How many there were.
        channels: By name.
    """

    ticks: int
    channels: Mapping[str, Wealth]

    @classmethod
    def none(cls, reference: Reference) -> "Evidence":
        """Before the first tick."""
        return cls(0, {channel.name: null.begin() for channel, null in reference.channels})

    @property
    def e_value(self) -> float:
        """Mean of the channels' e-values: an e-value again, however they depend on each other."""
        return float(np.mean([channel.e_value for channel in self.channels.values()]))

    @property
    def is_alarm(self) -> bool:
        return self.e_value >= LIMIT

    def seen(self, reference: Reference, categories: Mapping[str, Ints]) -> "Evidence":
        """The evidence after one tick.

        Args:
            reference: What `none` was made of.
            categories: By channel, of the rows that count; in an order that does not depend on what they say.
        """
        after = {
            channel.name: null.bet(self.channels[channel.name], categories[channel.name])
            for channel, null in reference.channels
        }
        return Evidence(self.ticks + 1, after)


def categories_of(reference: Reference, rows: Sequence[TrafficRow], vectors: Vectors) -> dict[str, Ints]:
    """Each channel's categories of rows, `(rows,)` each."""
    return {channel.name: channel.of_rows(rows, vectors) for channel, _ in reference.channels}
