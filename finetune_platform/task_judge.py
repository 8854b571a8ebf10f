"""The task file's section about the judge: who scores answers that no expert has seen.

Asking him belongs in `inference/judge.py`.
"""

import re
from typing import Self

from pydantic import Field, field_validator, model_validator

from finetune_platform.strict import Strict

PLACES = ("{question}", "{answer}")


class Judge(Strict):
    """Who says, without a gold answer, how good an answer is: a function, or a model on an OpenAI-compatible server.

    `scorer` is `package.module:function` for a function `(question: str, answer: str) -> float` in [0, 1]. Otherwise
    `urls` are the servers, `model` is their name for it, `api_key` names an entry of UPSTREAM_API_KEYS, and `prompt` is
    what it is asked, with `{question}` and `{answer}` where they belong; it must answer a number from 0 to 1, yes or
    no, or JSON with `score`. `max_rows` are judged a look besides those with an expert's label. `price_per_call` is in
    the currency of `cost`.
    """

    scorer: str | None = None
    urls: list[str] = []
    model: str | None = None
    api_key: str | None = None
    prompt: str | None = None
    max_tokens: int = Field(default=64, gt=0)
    max_rows: int = Field(default=200, gt=0)
    concurrency: int = Field(default=4, gt=0, le=64)
    timeout_s: float = Field(default=60.0, gt=0)
    retries: int = Field(default=2, ge=0, le=10)
    price_per_call: float = Field(default=0.0, ge=0)

    @field_validator("urls")
    @classmethod
    def are_addresses(cls, urls: list[str]) -> list[str]:
        for url in urls:
            if not url.startswith(("http://", "https://")):
                raise ValueError(f'url "{url}" must start with http:// or https://')
        return urls

    @model_validator(mode="after")
    def one_of_two(self) -> Self:
        if (self.scorer is None) == (not self.urls):
            raise ValueError("a judge is either scorer: (a function) or urls: and model: (a server)")
        if self.scorer is not None and not re.match(r"^[\w.]+:\w+$", self.scorer):
            raise ValueError(f'scorer "{self.scorer}" is not package.module:function')
        if self.urls and (self.model is None or self.prompt is None):
            raise ValueError("a judge behind urls: needs model: and prompt:")
        if self.prompt is not None and (missing := [place for place in PLACES if place not in self.prompt]):
            raise ValueError(f"prompt: must hold {' and '.join(missing)}")
        return self
