"""The trials of a search as one SVG image: who was how good at which rung, and who was chosen."""

import io

from finetune_platform.training.search.proposals import RUNGS
from finetune_platform.training.search.record import SearchManifest


def trials_picture(manifest: SearchManifest) -> bytes:
    """The validation loss of every trial at its rungs; the chosen one stands out."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.subplots()
    shares = [100 * rung / RUNGS[-1] for rung in RUNGS]
    for trial in manifest.trials:
        best = trial.number == manifest.best
        axes.plot(
            shares[: len(trial.measured)],
            trial.measured,
            marker="o",
            markersize=4,
            linewidth=2 if best else 0.8,
            color="#c0392b" if best else "#7f8c8d",
            zorder=2 if best else 1,
            label=f"trial {trial.number}, chosen" if best else None,
        )
    axes.set(
        xlabel="share of the trial's steps (%)",
        ylabel="validation loss",
        title=f"{manifest.task}: {manifest.artifact_id}, {len(manifest.trials)} trials",
        xscale="log",
    )
    axes.set_xticks(shares, [f"{share:.0f}" for share in shares])
    axes.minorticks_off()
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    image = io.BytesIO()
    figure.savefig(image, format="svg", metadata={"Date": None})
    return image.getvalue()
