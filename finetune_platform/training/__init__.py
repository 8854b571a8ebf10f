"""From a dataset to an adapter: rows, batches, loss, checkpoints, tracking, and the process that runs them.

Where training runs and how Dagster hears of it belongs in `resources/`; generating answers in `inference/`.
Nothing heavy is imported here: the code location reads `TRAINING_VERSION`.
"""

TRAINING_VERSION = "4"
"""Part of every training run's id: raise it when the same rows and options would train another adapter."""
