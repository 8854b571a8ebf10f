"""The loss curve of a training run, as one SVG image.

What else is shown of a run belongs to Dagster's metadata and MLflow.
"""

import io
from collections.abc import Sequence

from finetune_platform.training.loop import StepLog


def loss_curve(log: Sequence[StepLog], title: str) -> bytes:
    """Training and validation loss over the steps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.subplots()
    axes.plot([e.step for e in log], [e.loss for e in log], linewidth=1, label="training, by step")
    measured = [(e.step, e.validation_loss) for e in log if e.validation_loss is not None]
    if measured:
        axes.plot([s for s, _ in measured], [v for _, v in measured], marker="o", label="validation")
    axes.set(xlabel="optimizer step", ylabel="loss (nats a supervised token)", title=title, ylim=(0, None))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    image = io.BytesIO()
    figure.savefig(image, format="svg", metadata={"Date": None})
    return image.getvalue()
