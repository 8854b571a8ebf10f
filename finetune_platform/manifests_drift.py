"""What one look at the traffic says, and the records that it is made of.

What every manifest has belongs in `manifests.py`.
"""

from typing import Literal

from finetune_platform.manifests import Manifest, Record


class ChannelRecord(Record):
    """One channel's evidence after a tick."""

    name: str
    e_value: float


class PerformanceRecord(Record):
    """One metric of the champion in production, of the labels of the last days.

    `labels_only_*` is the interval without the judge. `e_value` is the evidence, since it took over, that the metric is
    below `level`, which follows from `baseline`; both are null while there is nothing to compare with. `degraded` once
    it has reached `limit`.
    """

    metric: str
    estimate: float | None
    lower: float | None
    upper: float | None
    labels_only_lower: float | None
    labels_only_upper: float | None
    method: str
    n_labels: int
    n_judged: int
    baseline: float | None
    level: float | None
    e_value: float
    limit: float
    degraded: bool
    degraded_since: str | None


class PerformancePoint(Record):
    """One metric as it was estimated at one look."""

    metric: str
    moment: str
    estimate: float
    lower: float
    upper: float


class JudgeRecord(Record):
    """What became of the answers that a look gave to the judge; `problem` is the first that went wrong."""

    scored: int
    unreadable: int
    failed: int
    problem: str
    cost_of_30_days: float = 0.0
    currency: str = ""


class DriftManifest(Manifest):
    """`drift_report`: what one look at the traffic found.

    `rows` came between `since` and `until`; `counted` are those left when repeats count once. `status` is `alarm` where
    the traffic has changed or a metric of `performance` is degraded; `alarms` names those that stand: the reference's
    id, or champion, metric and since when. Parents: `drift_reference`, where there is one.
    """

    FOLDER = "drift_reports"

    status: Literal["gathering", "quiet", "alarm"]
    headline: str
    champion: str
    tick: int
    since: str
    until: str
    rows: int
    counted: int
    e_value: float
    limit: float
    channels: list[ChannelRecord]
    alarms: list[str] = []
    performance: list[PerformanceRecord] = []
    judge: JudgeRecord | None = None

    @property
    def alarm(self) -> str:
        """What an alarm is called, the same in all reports that carry it: it stands until somebody begins anew.

        Where several stand, the traffic's, or else that of the metric that was degraded first.
        """
        return f"alarm {(self.alarms or [self.parents.get('drift_reference', self.champion)])[0]}"
