"""Evaluation: what is averaged, what is counted, and what comes back from disk."""

import json
import math

import numpy as np
import pytest
from scipy import stats

from mamba_unet.evaluation.metrics import EMPTY_MASK_POLICY, Conventions, segmentation_metrics
from mamba_unet.evaluation.summary import Evaluation, format_interval, format_statistic

CLASSES = ["background", "ventricle", "wall"]
OVERLAP = ("dice", "iou", "accuracy", "precision", "sensitivity", "specificity")


@pytest.fixture
def evaluation(blocks, evaluate):
    """Two patients, three cases; Dice of the ventricle 1, 0.5 and 0.8, of the wall 1 throughout."""
    return evaluate(
        {
            "a_1": (blocks(), blocks()),
            "a_2": (blocks(6), blocks(2)),
            "b_1": (blocks(6), blocks(4)),
        }
    )


def test_rows_hold_the_metrics_of_each_case_and_class(evaluation, blocks):
    assert [(row["case"], row["patient"], row["class_name"]) for row in evaluation.rows] == [
        (case, case[0], name) for case in ("a_1", "a_2", "b_1") for name in CLASSES[1:]
    ]
    expected = segmentation_metrics(blocks(2), blocks(6), (8.0, 1.5, 1.5), 3)[1]
    assert {name: evaluation.rows[2][name] for name in expected} == expected
    assert evaluation.rows[2]["distance_unit"] == "mm"


def test_means_are_over_cases_then_classes(evaluation):
    assert evaluation.per_class() == pytest.approx({"ventricle": (1 + 0.5 + 0.8) / 3, "wall": 1})
    assert evaluation.mean_foreground_dice == pytest.approx((2.3 / 3 + 1) / 2)
    assert evaluation.per_case() == pytest.approx({"a_1": 1, "a_2": 0.75, "b_1": 0.9})
    summary = evaluation.summary()
    ventricle = summary["classes"]["ventricle"]["dice"]
    assert ventricle["mean"] == pytest.approx(2.3 / 3)
    assert ventricle["sd"] == pytest.approx(np.std([1, 0.5, 0.8], ddof=1))
    assert summary["foreground"]["dice"]["mean"] == pytest.approx(evaluation.mean_foreground_dice)
    assert summary["foreground"]["dice"]["sd"] == pytest.approx(np.std([1, 0.75, 0.9], ddof=1))
    assert (summary["cases"], summary["patients"]) == (3, 2)


def test_interval_is_a_bootstrap_over_patients(evaluation):
    """Two patients: a draw has a alone (mean 0.75), b alone (0.8) or both (2.3 / 3), so no draw mixes a's cases."""
    interval = evaluation.summary()["classes"]["ventricle"]["dice"]["ci95"]
    assert interval == pytest.approx([0.75, 0.8])
    # the foreground's is over the mean of the classes, of which the wall has 1 in every draw
    assert evaluation.summary()["foreground"]["dice"]["ci95"] == pytest.approx([0.875, 0.9])
    said = evaluation.summary()["bootstrap"]
    assert said == {"over": "patients", "level": 0.95, "samples": 10_000, "seed": 0}, "as docs/metrics.md has it"


def rows_of(dice):
    """One case per patient with this Dice of one class."""
    return [
        {"case": f"{i}", "patient": f"{i}", "class": 1, "class_name": "x", **dict.fromkeys(OVERLAP, value)}
        for i, value in enumerate(dice)
    ]


def test_interval_is_the_middle_95_percent_of_what_the_draws_give():
    """Of n patients with Dice 0 or 1, half each, a draw's mean is binomial: its 2.5 % quantile is known."""
    patients = 1000
    dice = np.arange(patients) % 2
    low, high = Evaluation(("background", "x"), None, rows_of(dice), []).summary()["classes"]["x"]["dice"]["ci95"]
    expected = stats.binom(patients, 0.5).ppf([0.025, 0.975]) / patients
    assert (low, high) == pytest.approx(expected, abs=0.0021)  # 90 % would be 0.005 narrower on either side


def test_interval_covers_the_mean_of_many_patients_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(60):
        rows = rows_of(rng.normal(0.5, 0.1, 40))
        low, high = Evaluation(("background", "x"), None, rows, []).summary()["classes"]["x"]["dice"]["ci95"]
        hits += low <= 0.5 <= high
    assert 52 <= hits <= 60


def test_one_patient_has_no_interval_and_one_case_no_deviation(blocks, evaluate):
    statistic = evaluate({"a_1": (blocks(), blocks(2))}).summary()["foreground"]["dice"]
    assert statistic["mean"] is not None
    assert statistic["sd"] is None and statistic["ci95"] is None


def test_intervals_need_two_patients_who_count(blocks, evaluate):
    """The wall is in one patient alone, the ventricle and so the foreground in both; two cases have a deviation."""
    without_wall = (blocks(wall=0), blocks(6, wall=0))
    summary = evaluate({"a_1": without_wall, "b_1": (blocks(), blocks())}).summary()
    assert summary["classes"]["wall"]["dice"]["ci95"] is None
    assert summary["foreground"]["dice"]["ci95"] == pytest.approx([0.8, 1])
    assert summary["foreground"]["dice"]["sd"] == pytest.approx(0.2 / math.sqrt(2))


def test_empty_masks_are_counted_and_named(blocks, evaluate):
    evaluation = evaluate(
        {
            "a_1": (blocks(wall=0), blocks(wall=0)),  # wall absent from both
            "b_1": (blocks(), blocks(wall=0)),  # wall missed
            "c_1": (blocks(wall=0), blocks()),  # wall invented
            "d_1": (blocks(), blocks()),
        }
    )
    wall = evaluation.summary()["classes"]["wall"]
    assert {key: wall["dice"][key] for key in ("mean", "counted", "undefined", "infinite")} == {
        "mean": pytest.approx(1 / 3),
        "counted": 3,
        "undefined": 1,
        "infinite": 0,
    }
    assert {key: wall["hd95"][key] for key in ("mean", "counted", "undefined", "infinite")} == {
        "mean": 0,
        "counted": 1,
        "undefined": 1,
        "infinite": 2,
    }
    for text in (evaluation.text(), evaluation.markdown()):
        assert "(2 inf)" in text
        assert EMPTY_MASK_POLICY in text
        assert "Of 4 cases: wall absent from label and prediction in 1; wall absent from one of them in 2." in text


def test_class_that_never_occurs_does_not_spoil_the_mean(blocks, evaluate):
    evaluation = evaluate({"a_1": (blocks(wall=0), blocks(wall=0)), "b_1": (blocks(wall=0), blocks(wall=0))})
    assert evaluation.mean_foreground_dice == 1
    assert math.isnan(evaluation.per_class()["wall"])
    assert evaluation.summary()["classes"]["wall"]["dice"]["mean"] is None


def test_nothing_present_anywhere_is_nan(evaluate):
    empty = np.zeros((2, 4, 4), np.uint8)
    evaluation = evaluate({"a_1": (empty, empty)})
    assert math.isnan(evaluation.mean_foreground_dice)
    assert evaluation.image_dice().size == 0
    assert "-" in evaluation.text()


def test_images_without_any_structure_are_left_out_of_the_histogram(evaluation):
    """Three slices a case, of which the last is empty; a slice's Dice is the mean over its classes."""
    np.testing.assert_allclose(evaluation.image_dice(), [1, 1, 0.75, 0.75, 0.9, 0.9])
    assert len(evaluation.slice_rows) == 3 * 3 * 2


def test_distances_are_labelled_by_their_unit(blocks, evaluate):
    known = evaluate({"a_1": (blocks(), blocks(3))})
    unknown = evaluate({"a_1": (blocks(), blocks(3), None)})
    assert (known.distance_unit, unknown.distance_unit) == ("mm", "voxels")
    assert "HD95 (mm)" in known.text() and "HD95 (voxels)" in unknown.text()
    assert "voxel spacing is unknown" in unknown.markdown() and "unknown" not in known.markdown()
    assert known.per_class("hd95")["ventricle"] == pytest.approx(1.5 * unknown.per_class("hd95")["ventricle"])


def test_millimetres_and_voxels_are_never_averaged_together(blocks, evaluate):
    mixed = evaluate({"a_1": (blocks(), blocks(3)), "b_1": (blocks(), blocks(3), None)})
    summary = mixed.summary()
    assert summary["distance_unit"] == "mixed"
    assert summary["classes"]["ventricle"]["hd95"]["mean"] is None
    assert summary["foreground"]["asd"]["ci95"] is None
    assert summary["classes"]["ventricle"]["dice"]["mean"] is not None
    assert "Distances are not averaged" in mixed.text()
    with pytest.raises(ValueError, match="hd95 is in mm for some cases and in voxels for others"):
        mixed.per_class("hd95")
    assert [row["distance_unit"] for row in mixed.rows] == ["mm", "mm", "voxels", "voxels"]


def test_a_table_has_every_metric_once(evaluation):
    header = next(line for line in evaluation.markdown().splitlines() if "Dice" in line)
    titles = ["", "Dice", "Dice 95 % interval", "IoU", "Accuracy", "Precision", "Sensitivity", "Specificity"]
    assert [cell.strip() for cell in header.split("|")[1:-1]] == [*titles, "HD95 (mm)", "ASD (mm)"]


def test_conventions_are_passed_on_and_named(blocks, evaluate):
    data = {"a_1": (blocks(), blocks(3))}
    conventions = Conventions("hd", "asd_prediction_to_label")
    evaluation = evaluate(data, conventions=conventions)
    assert "conventions: hd, asd_prediction_to_label" in evaluation.text()
    expected = segmentation_metrics(blocks(3), blocks(), (8.0, 1.5, 1.5), 3, conventions=conventions)[1]["hd95"]
    assert evaluation.rows[0]["hd95"] == expected


def test_distances_can_be_left_out(tmp_path, blocks, evaluate):
    evaluation = evaluate({"a_1": (blocks(), blocks(3))}, distances=False)
    assert evaluation.metrics == OVERLAP
    assert "hd95" not in evaluation.rows[0] and "hd95" not in evaluation.summary()["foreground"]
    assert "HD95" not in evaluation.text() + evaluation.markdown()
    assert "distance_unit" not in evaluation.rows[0] and "Distances" not in evaluation.text()
    assert "All 1 case counted in every class." in evaluation.text()
    evaluation.write(tmp_path)
    assert Evaluation.read(tmp_path).conventions is None


def test_what_is_written_can_be_read_again(tmp_path, blocks, evaluate):
    evaluation = evaluate(
        {"a_1": (blocks(wall=0), blocks(wall=0)), "a_2": (blocks(), blocks(wall=0)), "b_1": (blocks(), blocks(3))}
    )
    evaluation.write(tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "metrics_per_case.csv",
        "slice_dice.csv",
        "summary.json",
        "summary.md",
    ]
    again = Evaluation.read(tmp_path / "out")
    np.testing.assert_equal(
        (again.rows, again.slice_rows, again.class_names, again.conventions),
        (evaluation.rows, evaluation.slice_rows, evaluation.class_names, evaluation.conventions),
    )
    assert again.summary() == evaluation.summary()
    assert "NaN" not in (tmp_path / "out" / "summary.json").read_text()
    json.loads((tmp_path / "out" / "summary.json").read_text(), parse_constant=pytest.fail)


def test_no_case_at_all_has_no_summary(evaluate):
    empty = evaluate({})
    assert math.isnan(empty.mean_foreground_dice)
    with pytest.raises(ValueError, match="no case was evaluated"):
        empty.text()


def test_parts_of_several_processes_merge_into_one(evaluation, blocks, evaluate):
    data = {"a_1": (blocks(), blocks()), "a_2": (blocks(6), blocks(2)), "b_1": (blocks(6), blocks(4))}
    parts = [evaluate({name: data[name] for name in names}) for names in (["b_1", "a_1"], ["a_2"], [])]
    merged = Evaluation.merge(parts)
    assert (merged.rows, merged.summary()) == (evaluation.rows, evaluation.summary())
    np.testing.assert_equal(merged.slice_rows, evaluation.slice_rows)
    with pytest.raises(ValueError, match="cases in more than one part: a_2"):
        Evaluation.merge([parts[1], evaluation])
    assert Evaluation.merge(parts[1:2]).rows == parts[1].rows
    with pytest.raises(ValueError, match="different classes or conventions"):
        Evaluation.merge([parts[0], evaluate({}, distances=False)])


def test_ignored_pixels_are_counted_once_a_case_and_noted(tmp_path, blocks, evaluate):
    label = blocks()
    label[:, 11] = 255
    evaluation = evaluate({"a_1": (label, blocks()), "b_1": (blocks(), blocks())})
    assert evaluation.ignored_pixels == 3 * 12
    assert evaluation.mean_foreground_dice == 1
    for text in (evaluation.text(), evaluation.markdown()):
        assert "36 pixels without ground truth (label 255) are not counted." in text
    evaluation.write(tmp_path)
    assert Evaluation.read(tmp_path).ignored_pixels == 36
    whole = evaluate({"a_1": (blocks(), blocks())}).text()
    assert "without ground truth" not in whole and "Measured on dense labels: every pixel counts." in whole


def test_the_foreground_mean_weighs_classes_alike_whatever_cases_define_them(blocks, evaluate):
    """The wall is in one case of three, with a Dice of 0.5; the ventricle is in all, with 1."""
    wall = evaluate(
        {
            "a_1": (blocks(wall=6), blocks(wall=2)),
            "b_1": (blocks(wall=0), blocks(wall=0)),
            "c_1": (blocks(wall=0), blocks(wall=0)),
        }
    )
    assert wall.mean_foreground_dice == pytest.approx((1 + 0.5) / 2)  # the mean of the cases would be 2.75 / 3
    assert wall.summary()["foreground"]["dice"]["mean"] == pytest.approx(0.75)


def test_the_interval_of_a_distance_leaves_infinite_ones_out(blocks, evaluate):
    """Two patients of equal distance, a third that missed the wall: every draw with a finite one has that distance."""
    data = {name: (blocks(), blocks(wall=3)) for name in ("a_1", "b_1")} | {"c_1": (blocks(), blocks(wall=0))}
    wall = evaluate(data).summary()["classes"]["wall"]["hd95"]
    assert wall["infinite"] == 1
    assert wall["ci95"] == pytest.approx([wall["mean"], wall["mean"]])


def test_numbers_are_written_with_the_digits_that_mean_something():
    statistic = {"mean": 4.1234, "sd": 1.30049, "infinite": 2, "ci95": [0.9012, 0.9481]}
    assert format_statistic("hd95", statistic) == "4.12 ± 1.30 (2 inf)"
    assert format_statistic("dice", {**statistic, "mean": 0.92812, "sd": 0.0432, "infinite": 0}) == "0.9281 ± 0.043"
    assert format_interval(statistic) == "0.901 to 0.948"


def test_rows_of_an_earlier_version_ignored_nothing():
    assert Evaluation(("background", "x"), None, rows_of([0.5]), []).ignored_pixels == 0


def test_slice_rows_name_their_class(evaluation):
    assert [(row["slice"], row["class"], row["class_name"]) for row in evaluation.slice_rows[:3]] == [
        (0, 1, "ventricle"),
        (0, 2, "wall"),
        (1, 1, "ventricle"),
    ]
