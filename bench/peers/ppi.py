"""What the authors' own package says of samples, in its own environment:

    python -m venv .finetune/peers/ppi
    .finetune/peers/ppi/bin/pip install -r bench/peers/ppi-requirements.txt
    .finetune/peers/ppi/bin/python bench/peers/ppi.py SAMPLES.json

Prints, on the last line, for each sample: the mean with the given lambda, the mean with its own, and that one's
standard error. `evidence.py ppi` writes the file and calls this.
"""

import json
import sys
from pathlib import Path
from statistics import NormalDist

import numpy as np
from ppi_py import ppi_mean_ci, ppi_mean_pointestimate


def main() -> None:
    samples = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    print(
        json.dumps([told(*(np.array(s[key]) for key in ("scores", "judged", "others")), s["slope"]) for s in samples])
    )


def told(scores: np.ndarray, judged: np.ndarray, others: np.ndarray, slope: float) -> list[float]:
    """Of one sample."""
    given = ppi_mean_pointestimate(scores, judged, others, lam=slope)
    own = ppi_mean_pointestimate(scores, judged, others)
    low, high = ppi_mean_ci(scores, judged, others, alpha=0.05)
    error = (high - low) / 2 / NormalDist().inv_cdf(0.975)
    return [float(np.ravel(number)[0]) for number in (given, own, error)]


if __name__ == "__main__":
    main()
