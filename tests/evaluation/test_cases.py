"""Cases in, rows out: what is measured of each case, what is refused."""

from dataclasses import replace

import pytest

from mamba_unet.evaluation.cases import evaluate_cases

CLASSES = ["background", "ventricle", "wall"]


@pytest.mark.parametrize(
    ("labelled", "slices", "added", "message"),
    [
        (False, 3, 0, "a_1: no label to measure against"),
        (True, 2, 0, r"a_1: prediction has shape \(2, 12, 12\), its label \(3, 12, 12\)"),
        (True, 3, 1, r"a_1: prediction value 3 is not in 0\.\.2"),
    ],
)
def test_errors_name_the_case(blocks, make_case, labelled, slices, added, message):
    case = make_case("a_1", blocks())
    case = case if labelled else replace(case, label=None)
    with pytest.raises(ValueError, match=message):
        evaluate_cases(lambda _: blocks()[:slices] + added, [case], CLASSES)


def test_a_case_that_comes_twice_is_refused(blocks, make_case):
    with pytest.raises(ValueError, match="a_1: the case came twice"):
        evaluate_cases(lambda case: case.label, [make_case("a_1", blocks())] * 2, CLASSES)


def test_progress_is_shown_on_request(capsys, blocks, evaluate):
    evaluate({"a_1": (blocks(), blocks())}, progress=True)
    assert "1/1" in capsys.readouterr().err
    evaluate({"b_1": (blocks(), blocks())})
    assert not capsys.readouterr().err
