"""The task file's sections about people: which rows they see and how, and when what they said trains the next adapter.

Acting on them is `labeling/`'s and `sensors/`'s.
"""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from finetune_platform.strict import Strict

Share = Annotated[float, Field(ge=0, le=1)]


class LabelStudio(Strict):
    """A Label Studio server where experts label instead of in the built-in pages.

    Its personal access token is the setting `LABEL_STUDIO_TOKEN`: secrets do not belong in a task file.
    """

    url: str = Field(pattern=r"^https?://\S+$")
    poll_seconds: float = Field(default=60.0, ge=5)


class Labeling(Strict):
    """What experts are asked.

    A batch holds `budget` rows. `overlap_share` of them go to two people each, who do not see each other's answers; a
    third decides where they differ. `gold_share` of the budget is added as rows whose answer is known, to measure the
    people; `hidden_suggestion_share` of the rows hide what the model answered, to measure how far it leads them.
    A retraining waits while the lower bound of Krippendorff's alpha is below `min_agreement`. With `labels` people
    choose one of them, else they write. Corrections that users sent and answers they accepted become labels of trust
    `correction_trust` and `accepted_trust`; those below `min_trust` are kept and not trained on.
    """

    backend: Literal["pages", "label_studio"] = "pages"
    label_studio: LabelStudio | None = None
    guidelines: str = ""
    labels: list[str] = []
    budget: int = Field(default=100, ge=10, le=10_000)
    random_share: Share = 0.4
    novel_share: Share = 0.2
    overlap_share: Share = 0.2
    gold_share: Share = 0.05
    hidden_suggestion_share: Share = 0.1
    min_agreement: float = Field(default=0.667, ge=-1, le=1)
    lease_minutes: float = Field(default=15.0, gt=0)
    correction_trust: Share = 0.7
    accepted_trust: Share = 0.3
    min_trust: Share = 0.5

    @field_validator("labels")
    @classmethod
    def labels_differ(cls, labels: list[str]) -> list[str]:
        if twice := next((label for label in labels if labels.count(label) > 1), None):
            raise ValueError(f'label "{twice}" stands there twice; keep one')
        if empty := next((i for i, label in enumerate(labels) if not label.strip()), None):
            raise ValueError(f"label {empty} is empty; write one or remove it")
        return labels

    @model_validator(mode="after")
    def parts_fit(self) -> "Labeling":
        if (self.backend == "label_studio") != (self.label_studio is not None):
            raise ValueError("label_studio: goes with backend: label_studio, and only with it")
        if self.label_studio and (dollar := next((label for label in self.labels if "$" in label), None)):
            raise ValueError(f'label "{dollar}": Label Studio takes what follows a $ for the name of a field')
        if self.random_share + self.novel_share > 1:
            raise ValueError("random_share + novel_share leave nothing for hard rows; together they are at most 1")
        if self.random_share == 0:
            raise ValueError("random_share is the only part that measures quality; it must be above 0")
        return self


class WarmStart(Strict):
    """Training that begins at the champion's weights, on what it has not seen yet.

    It trains on the rows that are new since the champion's dataset, and on a sample of the others, drawn slice by
    slice, that makes up `replay_share` of all. What is not named here is that of `training.stages`.
    """

    replay_share: float = Field(default=0.5, ge=0, lt=1)
    num_train_epochs: float | None = Field(default=None, gt=0)
    learning_rate: float | None = Field(default=None, gt=0)


class Retraining(Strict):
    """When labels start the chain by themselves.

    At least `cooldown_hours` lie between two retrainings, at most `most_per_month` run in thirty days, and none
    starts where what the month has cost (training hours, labels, the judge, at the prices of the task file) is above
    `monthly_budget`. With `automatic: false` a person starts each: `finetune retrain TASK`. With `warm_start` training
    begins at the champion's weights, else at the base model's with all rows.
    """

    automatic: bool = True
    cooldown_hours: float = Field(default=24.0, ge=0)
    most_per_month: int = Field(default=4, ge=1)
    monthly_budget: float | None = Field(default=None, ge=0)
    warm_start: WarmStart | None = None
