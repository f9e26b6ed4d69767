"""Cases in, rows out: what is measured of each case, what is refused."""

from pathlib import Path

import numpy as np
import pytest

from mamba_unet.data.case import Case
from mamba_unet.evaluation.cases import evaluate_cases

CLASSES = ["background", "ventricle", "wall"]


def make_case(identifier, label, spacing_mm=(8.0, 1.5, 1.5)):
    image = np.zeros(label.shape, np.float32)
    return Case(identifier, identifier.split("_")[0], image, label, spacing_mm, None, None, Path(identifier))


def blocks(ventricle=4, wall=4):
    """Three slices of 12 x 12: a ventricle and a wall of so many columns, four rows each; nothing in the last."""
    label = np.zeros((3, 12, 12), np.uint8)
    label[:2, 1:5, :ventricle] = 1
    label[:2, 6:10, :wall] = 2
    return label


def evaluate(labels_and_predictions, **options):
    """{identifier: (label, prediction)} or (label, prediction, spacing) -> Evaluation."""
    cases = [make_case(name, label, *spacing) for name, (label, _, *spacing) in labels_and_predictions.items()]
    return evaluate_cases(lambda case: labels_and_predictions[case.identifier][1], cases, CLASSES, **options)


@pytest.mark.parametrize(
    ("case", "prediction", "message"),
    [
        (("a_1", None), blocks(), "a_1: no label to measure against"),
        (("a_1", blocks()), blocks()[:2], r"a_1: prediction has shape \(2, 12, 12\), its label \(3, 12, 12\)"),
        (("a_1", blocks()), blocks() + 1, r"a_1: prediction value 3 is not in 0\.\.2"),
    ],
)
def test_errors_name_the_case(case, prediction, message):
    identifier, label = case
    made = Case(identifier, "a", np.zeros((3, 12, 12), np.float32), label, None, None, None, Path("a"))
    with pytest.raises(ValueError, match=message):
        evaluate_cases(lambda _: prediction, [made], CLASSES)


def test_a_case_that_comes_twice_is_refused():
    with pytest.raises(ValueError, match="a_1: the case came twice"):
        evaluate_cases(lambda case: case.label, [make_case("a_1", blocks())] * 2, CLASSES)


def test_progress_is_shown_on_request(capsys):
    evaluate({"a_1": (blocks(), blocks())}, progress=True)
    assert "1/1" in capsys.readouterr().err
