"""A Dagster code location that keeps a narrow task's fine-tuned model good in production.

Nothing of ours is imported here: `finetune_platform.definitions` must load in under three seconds, and a
training process must not load Dagster.
"""

import os

# These libraries read them when they are imported, wherever that happens first: nothing about a user's data is
# told to their makers, and nothing of theirs breaks into our progress on a terminal. Whoever wants them sets them.
for _name, _value in {
    "DAFT_ANALYTICS_ENABLED": "0",
    "DAFT_PROGRESS_BAR": "0",
    "DAFT_SHOW_QUERY_ID": "0",
    "GX_ANALYTICS_ENABLED": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # OpenMP threads spin while they wait, 300,000 turns by default, and fight over the cores of a busy machine; not
    # to spin at all halves the rate of generation on an idle one. A short spin is as fast there, and a third faster
    # on the busy one.
    "GOMP_SPINCOUNT": "5000",
}.items():
    os.environ.setdefault(_name, _value)
