"""Logged questions of two kinds, for tests of what follows when the second kind comes."""

import itertools
import random
from datetime import datetime, timedelta

from finetune_platform.lake import Lake
from finetune_platform.serving.interactions import DAY, Interaction
from finetune_platform.serving.stored_rows import stored, tables_of

PARTS = {
    "home": (
        ["My card", "The transfer", "My login", "The new password", "The refund", "My statement"],
        ["was declined", "did not arrive", "is blocked", "does not work", "is missing", "takes days"],
        ["since Monday", "again", "in the app", "at the counter", "abroad", "for no reason"],
    ),
    "strange": (
        ["Our flight to Lisbon", "The hotel room", "A rental bike", "The museum", "The mountain hike", "A beach"],
        ["leaves at dawn", "has a view", "costs a fortune", "is closed for winter", "was a delight", "needs booking"],
        ["in July", "with two children", "near the harbour", "on a rainy day", "for the weekend", "by train"],
    ),
}


def questions(kind: str, count: int) -> list[str]:
    every = [" ".join(parts) for parts in itertools.product(*PARTS[kind])]
    return random.Random(0).sample(every, count)


def log(lake: Lake, texts: list[str], start: datetime) -> None:
    rows = [
        stored(
            Interaction(
                interaction_id=f"in-{start:%d%H}-{n}",
                timestamp=start + timedelta(seconds=n),
                task="ticket_topics",
                adapter_id="base",
                arm="base",
                request={"messages": [{"role": "user", "content": text}]},
                response={"choices": [{"message": {"role": "assistant", "content": text.split()[1]}}]},
                latency_ms=20.0,
                sampled_because="share",
            ),
            redact=False,
        )
        for n, text in enumerate(texts)
    ]
    for path, table in tables_of(rows).items():
        lake.append(path, table, partition_by=DAY)
