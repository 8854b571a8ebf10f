"""What a drift report says, as it stands in `report.json`. `explanation.py` finds it, `page.py` shows it."""

from finetune_platform.manifests import Record
from finetune_platform.manifests_drift import DriftManifest, PerformancePoint


class Look(Record):
    """One look at the traffic."""

    number: int
    since: str
    until: str
    rows: int
    counted: int
    e_value: float
    channels: dict[str, float]
    alarm: bool


class Moved(Record):
    """How far a channel's rows are from the reference's.

    Attributes:
        distance: Share of rows that would have to be in another category (total variation).
        category: The one that grew most; "" where none did.
        before: Its share in the reference.
        now: Its share since.
    """

    channel: str
    distance: float
    category: str
    before: float
    now: float


class Share(Record):
    """Rows of one kind: how many in the reference, how many since."""

    name: str
    before: int
    now: int


class Shares(Record):
    """How often each value of a descriptor is, those that changed most first.

    Attributes:
        before: Rows of the reference.
        now: Rows since.
    """

    title: str
    before: int
    now: int
    values: list[Share]


class Words(Record):
    """A word or a pair of words: `z` standard deviations more (or less) frequent, and how many rows hold it."""

    words: str
    z: float
    before: int
    now: int


class Example(Record):
    """A row that stands for others."""

    interaction_id: str
    text: str


class NovelCluster(Record):
    """A group of novel rows.

    Attributes:
        share: Of all compared rows.
    """

    rows: int
    share: float
    words: list[Words]
    examples: list[Example]


class Novel(Record):
    """Rows stranger than nearly all of the reference's.

    Attributes:
        share_before: What of the reference's own rows is as strange, by definition.
    """

    rows: int
    share_before: float
    clusters: list[NovelCluster]


class Test(Record):
    """MMD-FUSE between the reference and the rows since."""

    statistic: float
    p_value: float
    rows_before: int
    rows_now: int


class Suspicion(Record):
    """What may be behind it."""

    kind: str
    because: str


class Changes(Record):
    """What is other than in the reference, on an alarm.

    Attributes:
        since: When the evidence began to grow.
        logged: Rows since then.
        compared: Those of them that were compared: a sample where there are many, repeats once.
    """

    since: str
    until: str
    logged: int
    compared: int
    cause: Suspicion | None
    test: Test | None
    moved: list[Moved]
    more: list[Words]
    fewer: list[Words]
    novel: Novel
    shares: list[Shares]


class ReferenceOf(Record):
    """What is compared with."""

    artifact_id: str
    rows: int
    first: str
    last: str


class DriftReport(Record):
    """All that a look found, and those before it.

    Attributes:
        changes: None while the traffic has not changed.
        quality_history: Estimates of the champion's quality at the newest looks.
    """

    found: DriftManifest
    wanted_rows: int
    reference: ReferenceOf | None
    history: list[Look]
    changes: Changes | None
    quality_history: list[PerformancePoint] = []
