"""The table of tests and its notes, from tests made up by hand."""

import pytest

from mamba_unet.comparison.columns import metric_columns
from mamba_unet.comparison.paired import tests_notes as notes
from mamba_unet.comparison.paired import tests_table as table

COLUMNS = metric_columns(["dice", "hd95"], "mm")


def found(**changes):
    """What `paired_tests` gives for one network and metric."""
    return {
        "network": "unet",
        "metric": "dice",
        "patients": 20,
        "ties": 1,
        "left_out": 2,
        "median_difference": 0.01234,
        "interval": (-0.1, 0.25),
        "effect": 0.5,
        "p": 0.0123,
        "exact": True,
        "trainings": 3,
        "pairs_of_trainings": 9,
        "better_pairs": 7,
        "worse_pairs": 2,
        "p_trainings": 0.4,
        "p_holm": 0.0009,
    } | changes


def test_a_row_has_the_digits_of_its_metric():
    cells = ["unet", "Dice", "20", "1", "2", "+0.0123", "-0.1000 to +0.2500", "+0.50", "0.012", "<0.001", "7 of 9"]
    assert table([found()], COLUMNS, "mamba").rows == [[*cells, "0.400"]]
    distance = table([found(metric="hd95", p=0.001)], COLUMNS, "mamba").rows[0]
    assert distance[1] == "HD95 (mm)" and distance[5:7] == ["+0.01", "-0.10 to +0.25"] and distance[8] == "0.001"


def test_what_could_not_be_computed_is_a_dash():
    missing = dict.fromkeys(("median_difference", "interval", "effect", "p", "p_trainings", "p_holm"))
    row = table([found(**missing)], COLUMNS, "mamba").rows[0]
    assert row[5:10] == ["-"] * 5 and row[11] == "-"
    assert table([found(better_pairs=0, worse_pairs=0)], COLUMNS, "mamba").rows[0][10] == "-"


def test_words_stand_to_the_left_and_numbers_to_the_right():
    assert table([found()], COLUMNS, "mamba").left == (0, 1)


@pytest.mark.parametrize(
    ("patients", "ties", "count", "said"),
    [
        (5, 0, 1, "With 5 patients no p below 0.062 is possible, and none below 0.062 after the correction"),
        (6, 0, 1, None),  # 2 / 64
        (7, 1, 1, None),
        (6, 0, 2, "With 6 patients no p below 0.031 is possible, and none below 0.062"),
        (0, 0, 1, "No patient differs: too few"),
    ],
)
def test_too_few_patients_are_named(patients, ties, count, said):
    lines = notes([found(patients=patients, ties=ties)] * count, "mamba", one_training=[])
    assert any("too few" in line for line in lines) == (said is not None)
    assert said is None or any(said in line for line in lines)


def test_the_notes_say_how_p_was_computed_and_how_many_tests_it_is_corrected_for():
    exact = " ".join(notes([found(), found(p=None)], "mamba", one_training=[]))
    assert "two-sided, exact; patients" in exact and "corrected for the 1 test of" in exact
    many = " ".join(notes([found(exact=False)], "mamba", one_training=["mamba", "unet"]))
    assert "exact up to 200 patients, beyond that by the normal approximation" in many
    assert "not known here" in many and "not known here" not in exact
