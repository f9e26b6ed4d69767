"""Slices that stand for cases: which, and cut to what."""

from pathlib import Path

import numpy as np
import pytest

from mamba_unet.data.case import Case
from mamba_unet.drawing.examples import Example, largest_slice, most_wrong_slice, pick_cases


def test_cropping_keeps_everything_that_any_map_labels():
    label, prediction = np.zeros((2, 200, 300), int)
    label[90:110, 100:120] = 1
    prediction[95:115, 100:140] = 1
    example = Example("a", np.zeros((200, 300)), {"ground truth": label, "prediction": prediction}).cropped()
    assert example.image.shape == (60, 60)  # 1.5 x 40 columns
    assert all(
        example.labels[name].sum() == full.sum() for name, full in (("ground truth", label), ("prediction", prediction))
    )


def test_cropping_stops_at_the_border_and_leaves_an_unlabelled_slice_whole():
    corner, nothing = np.zeros((2, 50, 60), int)
    corner[:10, :40] = 1
    assert Example("a", corner, {"ground truth": corner}).cropped().image.shape == (35, 50)
    assert Example("a", nothing, {"ground truth": nothing}).cropped().image.shape == (50, 60)


def test_cases_are_drawn_by_name_and_seed_alone():
    names = [f"case{i:02d}" for i in range(20)]
    drawn = pick_cases(names, 4, seed=0)
    assert drawn == sorted(drawn) == pick_cases(names[::-1], 4, seed=0)
    assert any(pick_cases(names, 4, seed=seed) != drawn for seed in (1, 2))
    assert pick_cases(names[:2], 4, seed=0) == names[:2]


def test_the_largest_and_the_most_wrong_slice_leave_ignored_pixels_out():
    label, prediction = np.zeros((3, 4, 4), int), np.zeros((3, 4, 4), int)
    label[0] = 255
    label[1, :2] = 1
    prediction[2, 0] = 1
    prediction[1, :2] = 1
    assert (largest_slice(label), most_wrong_slice(label, prediction)) == (1, 2)


@pytest.mark.parametrize("channels", [None, 1, 3])
def test_the_example_of_a_case_is_cut_around_labels_and_keeps_colour(channels):
    image = np.random.default_rng(0).random((*([channels] if channels else []), 2, 100, 100), np.float32)
    label = np.zeros((2, 100, 100), np.uint8)
    label[1, 45:55, 45:55] = 1
    label[1, 0] = 255
    case = Case("p1", "p1", image, label, (8, 1, 1), None, None, Path("p1"))
    example = Example.of_case(case, 1, {"prediction": label * 0})
    assert example.name == "p1, slice 2" and list(example.labels) == ["ground truth", "prediction"]
    assert example.image.shape == ((32, 32, 3) if channels == 3 else (32, 32))
    assert [shown.shape for shown in example.pictures()] == [(320, 320, 3)] * 3


def test_the_example_of_a_case_whose_directions_are_known_stands_upright():
    """Of an image stored in rows from posterior to anterior and columns from right to left, anterior is shown on top
    and the patient's right on the left."""
    label = np.zeros((1, 60, 80), np.uint8)
    label[0, :20, :30] = 1  # posterior right
    case = Case("p1", "p1", label.astype(np.float32), label, (8, 2, 1), "SAL", None, Path("p1"))
    shown = Example.of_case(case, 0, {})
    assert shown.labels["ground truth"][-1, 0] == 1 and shown.labels["ground truth"][0, 0] == 0
    assert (shown.image == shown.labels["ground truth"]).all() and shown.pixel_size == (2, 1)
    sideways = Case("p1", "p1", label.astype(np.float32), label, (8, 2, 1), "SLP", None, Path("p1"))
    shown = Example.of_case(sideways, 0, {})
    assert shown.pixel_size == (1, 2) and shown.labels["ground truth"][0, 0] == 1
