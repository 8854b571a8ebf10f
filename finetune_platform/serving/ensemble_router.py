"""Which task of an ensemble a text belongs to: a linear classifier over a sentence vector, with calibrated confidence.

Plain numbers, no scikit-learn: how they were learnt and what they are worth is `ensemble_build.py`'s.
"""

from typing import TYPE_CHECKING, NamedTuple

from finetune_platform.errors import BadInput
from finetune_platform.lake import Lake
from finetune_platform.manifests import Manifest, Record

if TYPE_CHECKING:
    import numpy as np

WEIGHTS = "router.safetensors"


class HeldOut(Record):
    """What the classifier did with the members' test splits, which it never saw.

    Attributes:
        n: Rows.
        accuracy: Share whose most likely task is their own.
        coverage: Share of the specialists' rows that a specialist gets.
        covered_n: How many those are.
        covered_accuracy: Share of those that get their own one; None where none is covered.
        covered_lower: Lower bound of it, 95%.
        calibration_error: Mean distance of confidence and accuracy, over ten bins of confidence (expected calibration
            error; Guo et al. 2017, "On calibration of modern neural networks").
        confusion: Rows by their own task and the task that would answer.
    """

    n: int
    accuracy: float
    coverage: float
    covered_n: int
    covered_accuracy: float | None
    covered_lower: float
    calibration_error: float
    confusion: dict[str, dict[str, int]]


class RouterManifest(Manifest):
    """`ensemble_router`: `router.safetensors`. `task` is the ensemble's name; parents: each member's dataset.

    Attributes:
        labels: The tasks that the classifier knows, in the order of the weights' rows.
        general: The task that answers where it is not sure.
        temperature: What logits are divided by.
        embedder: Id of the model whose vectors it reads.
    """

    FOLDER = "routers"

    labels: list[str]
    general: str
    min_confidence: float
    temperature: float
    embedder: str
    train_rows: dict[str, int]
    held_out: HeldOut


class Chosen(NamedTuple):
    """The task that answers, the most likely one, and its probability."""

    task: str
    likeliest: str
    confidence: float


class Router:
    """The decision rule.

    Args:
        manifest: Of the published router.
        weights: float32, shape (labels, dimension).
        bias: float32, shape (labels,).
    """

    def __init__(self, manifest: RouterManifest, weights: "np.ndarray", bias: "np.ndarray") -> None:
        self.manifest, self._weights, self._bias = manifest, weights, bias

    def choose(self, vector: "np.ndarray") -> Chosen:
        """The specialist of one sentence vector, or the general task.

        Args:
            vector: float32, shape (dimension,), of length one, from the embedder that the manifest names.
        """
        import numpy as np

        known = self.manifest
        odds = probabilities((self._weights @ vector + self._bias)[None, :], known.temperature)[0]
        best = int(np.argmax(odds))
        return decided(known.labels[best], float(odds[best]), known.general, known.min_confidence)


def decided(likeliest: str, confidence: float, general: str, min_confidence: float) -> Chosen:
    """Who answers: the likeliest task if it is sure enough, else the general one."""
    return Chosen(likeliest if confidence >= min_confidence else general, likeliest, confidence)


def probabilities(logits: "np.ndarray", temperature: float) -> "np.ndarray":
    """Softmax of logits over a temperature; shape (rows, labels) in and out."""
    import numpy as np

    scaled = logits / temperature
    scaled = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    odds: np.ndarray = scaled / scaled.sum(axis=1, keepdims=True)
    return odds


def load_router(lake: Lake, ensemble: str, artifact_id: str) -> Router:
    """A published router.

    Raises:
        BadInput: It is not in the lake.
    """
    from safetensors.numpy import load

    path = RouterManifest.path_of(ensemble, artifact_id)
    try:
        manifest = lake.manifest(RouterManifest, path)
        tensors = load(lake.get(f"{path}/{WEIGHTS}"))
    except FileNotFoundError as error:
        raise BadInput(
            f"{lake.url_of(path)}: the router is recorded, but not there", f"`finetune ensemble build {ensemble}`"
        ) from error
    return Router(manifest, tensors["weights"], tensors["bias"])
