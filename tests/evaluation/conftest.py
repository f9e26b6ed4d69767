"""Small cases of which every metric can be computed by hand."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mamba_unet.data.case import Case
from mamba_unet.evaluation.cases import evaluate_cases

CLASSES = ["background", "ventricle", "wall"]


@pytest.fixture(scope="session")
def make_case() -> Callable[..., Case]:
    def make(identifier, label, spacing_mm=(8.0, 1.5, 1.5)):
        image = np.zeros(label.shape, np.float32)
        return Case(identifier, identifier.split("_")[0], image, label, spacing_mm, None, None, Path(identifier))

    return make


@pytest.fixture(scope="session")
def blocks() -> Callable[..., np.ndarray]:
    """Three slices of 12 x 12: a ventricle and a wall of so many columns, four rows each; nothing in the last."""

    def make(ventricle=4, wall=4):
        label = np.zeros((3, 12, 12), np.uint8)
        label[:2, 1:5, :ventricle] = 1
        label[:2, 6:10, :wall] = 2
        return label

    return make


@pytest.fixture(scope="session")
def evaluate(make_case):
    """{identifier: (label, prediction)} or (label, prediction, spacing) -> Evaluation."""

    def run(labels_and_predictions, **options):
        cases = [make_case(name, label, *spacing) for name, (label, _, *spacing) in labels_and_predictions.items()]
        return evaluate_cases(lambda case: labels_and_predictions[case.identifier][1], cases, CLASSES, **options)

    return run
