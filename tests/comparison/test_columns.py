"""Numbers of several networks: what is shown, what is marked, and that all formats say the same."""

import csv
import io

import pytest

from mamba_unet.comparison.columns import Column, Statistic, marks, metric_columns, statistics_csv, statistics_table

DICE, HD95 = metric_columns(["dice", "hd95"], "mm")
ROWS = {
    "mamba_unet": {"dice": Statistic((0.90, 0.92)), "hd95": Statistic((4.0, 6.0), infinite=1)},
    "unet": {"dice": Statistic((0.80, 0.90)), "hd95": Statistic((7.0, 7.0))},
    "nnunet": {"dice": Statistic((0.85,), undefined=2), "hd95": Statistic((9.0,))},
}


def test_mean_and_deviation_are_over_trainings():
    statistic = Statistic((0.8, 0.9, 1.0))
    assert statistic.mean == pytest.approx(0.9) and statistic.sd == pytest.approx(0.1)
    assert statistic.text(4) == "0.9000 ± 0.1000"


def test_one_training_has_no_deviation_and_one_without_a_value_no_mean():
    assert Statistic((0.5,)).sd is None and Statistic((0.5,)).text(2) == "0.50"
    assert Statistic((4.0, None), infinite=3).mean is None
    assert Statistic((4.0, None), infinite=3).text(2) == "- (3 inf)"


def test_units_and_directions_stand_in_the_headings():
    assert (DICE.heading, HD95.heading) == ("Dice ↑", "HD95 (mm) ↓")
    assert metric_columns(["asd"], "voxels")[0].title == "ASD (voxels)"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.7, 0.9, 0.8], ["", "best", "second"]),
        ([0.90001, 0.90002, 0.8], ["best", "best", "second"]),  # equal as printed
        ([0.9, 0.8, 0.8, 0.7], ["best", "second", "second", ""]),
        ([0.9, None, 0.8], ["best", "", "second"]),
        ([None, None], ["", ""]),
        ([0.9], [""]),
    ],
)
def test_best_and_second_are_marked(values, expected):
    statistics = [Statistic((value,)) for value in values]
    assert marks(Column("dice", "Dice"), statistics) == expected


def test_the_lowest_distance_is_best_unless_it_leaves_infinite_ones_out():
    statistics = [Statistic((1.0,), infinite=1), Statistic((5.0,)), Statistic((3.0,)), Statistic((4.0,))]
    assert marks(HD95, statistics) == ["", "", "best", "second"]


def test_markdown_is_as_written_by_hand():
    assert statistics_table([DICE, HD95], ROWS, "network").markdown() == (
        "| network    |                     Dice ↑ |         HD95 (mm) ↓ |\n"
        "|------------|---------------------------:|--------------------:|\n"
        "| mamba_unet |        **0.9100 ± 0.0141** | 5.00 ± 1.41 (1 inf) |\n"
        "| unet       | <ins>0.8500 ± 0.0707</ins> |     **7.00 ± 0.00** |\n"
        "| nnunet     |          <ins>0.8500</ins> |     <ins>9.00</ins> |\n"
    )


def test_latex_escapes_what_latex_would_misread():
    assert statistics_table([DICE, HD95], ROWS, "network").latex() == (
        "\\begin{tabular}{lrr}\n"
        "\\hline\n"
        "network & Dice $\\uparrow$ & HD95 (mm) $\\downarrow$ \\\\\n"
        "\\hline\n"
        "mamba\\_unet & \\textbf{0.9100 $\\pm$ 0.0141} & 5.00 $\\pm$ 1.41 (1 inf) \\\\\n"
        "unet & \\underline{0.8500 $\\pm$ 0.0707} & \\textbf{7.00 $\\pm$ 0.00} \\\\\n"
        "nnunet & \\underline{0.8500} & \\underline{9.00} \\\\\n"
        "\\hline\n"
        "\\end{tabular}\n"
    )


def test_csv_has_the_numbers_unrounded_and_what_the_means_leave_out():
    rows = {row["network"]: row for row in csv.DictReader(io.StringIO(statistics_csv([DICE, HD95], ROWS)))}
    assert float(rows["mamba_unet"]["Dice mean"]) == pytest.approx(0.91)
    assert float(rows["unet"]["Dice sd"]) == pytest.approx(0.005**0.5)
    assert (rows["mamba_unet"]["HD95 (mm) infinite"], rows["nnunet"]["Dice undefined"]) == ("1", "2")
    assert rows["nnunet"]["Dice sd"] == ""
