import csv
import json

import numpy as np
import pytest

from mamba_unet.measures.statistics import CaseStatistics, statistics_table, structure_statistics, write_statistics

NAMES = ("background", "liver", "spleen", "stomach")


def label_map() -> np.ndarray:
    """(1, 4, 5, 6): liver 6 voxels in slice 1 and 2 in slice 2; spleen one voxel in a corner; no stomach."""
    label = np.zeros((1, 4, 5, 6), np.uint8)
    label[0, 1, 1:3, 1:4] = 1
    label[0, 2, 1, 1:3] = 1
    label[0, 3, 4, 5] = 2
    return label


def test_sizes_are_those_counted_by_hand():
    liver, spleen, stomach = structure_statistics(label_map(), NAMES, (10, 2, 0.5))
    assert (liver.structure, liver.class_index, liver.voxels, liver.slices) == ("liver", 1, 8, (1, 2))
    assert liver.volume_ml == pytest.approx(8 * 10 * 2 * 0.5 / 1000)
    assert liver.area_pixels == (0, 6, 2, 0) and liver.area_mm2 == pytest.approx((0, 6, 2, 0))
    assert not liver.touches_border
    assert (spleen.voxels, spleen.slices, spleen.touches_border) == (1, (3, 3), True)
    assert (stomach.voxels, stomach.volume_ml, stomach.slices, stomach.touches_border) == (0, 0, None, False)


def test_the_mean_is_in_the_images_own_units_and_absent_where_there_is_nothing():
    image = np.full((1, 4, 5, 6), -1000, np.int16)
    image[0, 1], image[0, 2] = 50, 90
    liver, spleen, stomach = structure_statistics(label_map(), NAMES, image=image)
    assert liver.mean_intensity == pytest.approx((6 * 50 + 2 * 90) / 8)
    assert spleen.mean_intensity == -1000 and stomach.mean_intensity is None
    assert structure_statistics(label_map(), NAMES)[0].mean_intensity is None
    hole = image.astype(np.float32)
    hole[0, 1, 1, 1] = np.nan
    assert structure_statistics(label_map(), NAMES, image=hole)[0].mean_intensity is None


def test_without_spacing_there_are_pixels_and_no_volumes():
    liver = structure_statistics(label_map(), NAMES)[0]
    assert liver.area_pixels == (0, 6, 2, 0) and liver.area_mm2 is None and liver.volume_ml is None


@pytest.mark.parametrize("axis, areas, pixel_mm2", [(1, (0, 5, 3, 0, 0), 10 * 0.5), (2, (0, 3, 3, 2, 0, 0), 10 * 2)])
def test_slices_lie_across_the_axis_that_is_asked_for(axis, areas, pixel_mm2):
    liver, spleen, _ = structure_statistics(label_map(), NAMES, (10, 2, 0.5), label_map(), axis)
    assert liver.area_pixels == areas and liver.area_mm2 == pytest.approx([pixel_mm2 * area for area in areas])
    assert liver.volume_ml == pytest.approx(0.08) and liver.mean_intensity == 1
    assert spleen.touches_border


def test_the_ends_of_the_stack_are_no_border():
    label = np.zeros((1, 3, 4, 4), np.uint8)
    label[0, :, 1:3, 1:3] = 1
    assert not structure_statistics(label, NAMES)[0].touches_border
    assert structure_statistics(label, NAMES, slice_axis=1)[0].touches_border


@pytest.mark.parametrize("row, column", [(0, 2), (4, 2), (2, 0), (2, 5)])
def test_every_edge_of_the_slice_is_a_border(row, column):
    label = np.zeros((1, 2, 5, 6), np.uint8)
    label[0, 1, row, column] = 1
    assert structure_statistics(label, NAMES)[0].touches_border


def test_the_row_and_column_next_to_the_edge_are_no_border():
    label = np.zeros((1, 2, 5, 6), np.uint8)
    label[0, :, 1:4, 1:5] = 1
    assert not structure_statistics(label, NAMES)[0].touches_border


def test_frames_are_measured_each():
    label = np.concatenate([label_map(), label_map() * 0])
    measured = structure_statistics(label, NAMES)
    assert [(one.frame, one.structure, one.voxels) for one in measured] == [
        (0, "liver", 8),
        (0, "spleen", 1),
        (0, "stomach", 0),
        (1, "liver", 0),
        (1, "spleen", 0),
        (1, "stomach", 0),
    ]


@pytest.mark.parametrize(
    "change, text",
    [
        ({"class_names": NAMES[:2]}, r"label value 2 is not in 0..1 \(background, liver\)"),
        ({"image": np.zeros((1, 4, 5, 7))}, r"image of shape \(1, 4, 5, 7\), its label has \(1, 4, 5, 6\)"),
        ({"spacing_mm": (10, 2)}, "expected three lengths"),
        ({"spacing_mm": (10, 2, 0)}, "expected three lengths"),
        ({"spacing_mm": (10, 2, np.inf)}, "expected three lengths"),
        ({"label": label_map()[0]}, r"expected whole numbers \(T, D, H, W\)"),
        ({"label": label_map() / 2}, "float64: expected whole numbers"),
        ({"label": -label_map().astype(np.int16)}, "label value -2 is not in 0..3"),
    ],
)
def test_what_cannot_be_measured_is_refused_by_name(change, text):
    with pytest.raises(ValueError, match=text):
        structure_statistics(**{"label": label_map(), "class_names": NAMES} | change)


def test_the_table_to_read_has_a_dash_for_what_is_not_known():
    image = np.full((1, 4, 5, 6), 50.0)
    case = CaseStatistics("a", structure_statistics(label_map(), NAMES, (1000, 2, 0.5), image))
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in statistics_table([case]).splitlines()]
    assert rows[0] == ["case", "frame", "structure", "voxels", "ml", "mean", "slices", "touches border"]
    assert [cell.endswith(":") for cell in rows[1]] == [title not in ("case", "structure") for title in rows[0]]
    assert rows[2:] == [
        ["a", "1", "liver", "8", "8.0", "50", "2-3", "no"],
        ["a", "1", "spleen", "1", "1.0", "50", "4-4", "yes"],
        ["a", "1", "stomach", "0", "0.0", "-", "-", "no"],
    ]


def test_several_cases_make_one_table(tmp_path):
    cases = [
        CaseStatistics("a", structure_statistics(label_map(), NAMES, (10, 2, 0.5))),
        CaseStatistics("b", structure_statistics(label_map(), NAMES)),
    ]
    write_statistics(tmp_path / "statistics.csv", cases)
    write_statistics(tmp_path / "statistics.json", cases)
    with open(tmp_path / "statistics.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["case"], row["structure"], row["voxels"]) for row in rows[:4]] == [
        ("a", "liver", "8"),
        ("a", "spleen", "1"),
        ("a", "stomach", "0"),
        ("b", "liver", "8"),
    ]
    assert float(rows[0]["volume_ml"]) == pytest.approx(0.08) and rows[3]["volume_ml"] == ""
    assert rows[2]["first_slice"] == "" and (rows[0]["first_slice"], rows[0]["last_slice"]) == ("1", "2")
    assert "mean_uncertainty" not in rows[0], "nobody asked for it"
    stored = json.loads((tmp_path / "statistics.json").read_text())
    assert stored["a"][0]["area_mm2"] == [0, 6, 2, 0] and stored["b"][0]["area_mm2"] is None


def test_the_uncertainty_of_a_structure_is_the_mean_of_its_voxels(tmp_path):
    uncertainty = np.zeros((1, 4, 5, 6))
    uncertainty[0, 1], uncertainty[0, 2] = 0.5, 0.1
    measured = structure_statistics(label_map(), NAMES, uncertainty=uncertainty)
    assert [one.mean_uncertainty for one in measured] == [pytest.approx((6 * 0.5 + 2 * 0.1) / 8), 0, None]
    cases = [CaseStatistics("a", measured), CaseStatistics("b", structure_statistics(label_map(), NAMES))]
    write_statistics(tmp_path / "statistics.csv", cases)  # one case with it is enough for the column
    with open(tmp_path / "statistics.csv", newline="") as stream:
        told = [row["mean_uncertainty"] for row in csv.DictReader(stream)]
    assert float(told[0]) == pytest.approx(0.4) and told[2:] == ["", "", "", ""]


def test_a_label_of_one_value_is_measured():
    assert [one.voxels for one in structure_statistics(np.ones((1, 2, 2, 2), np.uint8), NAMES)] == [8, 0, 0]
