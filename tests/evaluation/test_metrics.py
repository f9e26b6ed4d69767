"""Metrics against answers computed by hand, against independent implementations, and on every empty case."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from mamba_unet.evaluation.metrics import (
    DISTANCE_METRICS,
    HD95_CONVENTIONS,
    OVERLAP_METRICS,
    Conventions,
    metric_title,
    segmentation_metrics,
    slice_dice,
)


def square(shape, rows, columns, value=1):
    labels = np.zeros(shape, dtype=np.uint8)
    labels[..., slice(*rows), slice(*columns)] = value
    return labels


def test_overlap_of_two_squares_is_what_counting_gives():
    label = square((8, 8), (0, 4), (0, 4))  # 16 pixels
    prediction = square((8, 8), (0, 4), (2, 6))  # 16 pixels, 8 of them shared
    result = segmentation_metrics(prediction, label, num_classes=2, distances=False)[1]
    assert result == {
        "dice": 16 / 32,
        "iou": 8 / 24,
        "accuracy": 48 / 64,
        "precision": 8 / 16,
        "sensitivity": 8 / 16,
        "specificity": 40 / 48,
    }


def test_distances_of_two_points_use_the_spacing():
    label, prediction = np.zeros((2, 6, 6), np.uint8), np.zeros((2, 6, 6), np.uint8)
    label[0, 1, 1] = 1
    prediction[1, 1, 4] = 1
    voxels = segmentation_metrics(prediction, label, num_classes=2)[1]
    mm = segmentation_metrics(prediction, label, (4.0, 1.5, 1.0), num_classes=2)[1]
    assert voxels["hd95"] == voxels["asd"] == pytest.approx(math.sqrt(1 + 9))
    assert mm["hd95"] == mm["asd"] == pytest.approx(5.0)


def test_conventions_differ_as_their_names_say():
    """Prediction: two points, one of them the label's only point. Forward distances 0 and 3, backward 0."""
    label, prediction = np.zeros((5, 5), np.uint8), np.zeros((5, 5), np.uint8)
    label[1, 0] = prediction[1, 0] = prediction[1, 3] = 1

    def distance(metric, name):
        named = Conventions(**{metric: name})
        return segmentation_metrics(prediction, label, num_classes=2, conventions=named)[1][metric]

    assert distance("hd95", "hd95_max_of_directed_percentiles") == pytest.approx(0.95 * 3)
    assert distance("hd95", "hd95_of_pooled_distances") == pytest.approx(0.9 * 3)  # 0, 0, 3
    assert distance("hd95", "hd") == 3
    assert distance("asd", "assd_pooled") == pytest.approx(3 / 3)
    assert distance("asd", "assd_mean_of_directed_means") == pytest.approx((1.5 + 0) / 2)
    assert distance("asd", "asd_prediction_to_label") == pytest.approx(1.5)
    prediction, label = label, prediction  # forward 0, backward 0 and 3
    assert distance("asd", "assd_mean_of_directed_means") == pytest.approx((0 + 1.5) / 2)
    assert distance("asd", "asd_prediction_to_label") == 0
    assert distance("hd95", "hd95_max_of_directed_percentiles") == pytest.approx(0.95 * 3)


def test_class_absent_from_both_is_undefined():
    result = segmentation_metrics(np.zeros((3, 4, 4), int), np.zeros((3, 4, 4), int), num_classes=2)[1]
    assert result["accuracy"] == result["specificity"] == 1
    assert all(math.isnan(result[name]) for name in ("dice", "iou", "precision", "sensitivity", "hd95", "asd"))


@pytest.mark.parametrize("empty", ["prediction", "label"])
def test_class_absent_from_one_has_no_overlap_and_infinite_distance(empty):
    full, none = square((3, 6, 6), (1, 4), (1, 4)), np.zeros((3, 6, 6), np.uint8)
    prediction, label = (none, full) if empty == "prediction" else (full, none)
    result = segmentation_metrics(prediction, label, (2.0, 1.0, 1.0), num_classes=2)[1]
    assert [result[name] for name in ("dice", "iou", "precision", "sensitivity")] == [0, 0, 0, 0]
    assert result["hd95"] == result["asd"] == math.inf
    assert result["accuracy"] == pytest.approx(27 / 36)
    assert result["specificity"] == (1 if empty == "prediction" else pytest.approx(27 / 36))


@pytest.mark.parametrize("missed", [True, False])
def test_a_single_voxel_missed_or_invented_counts_as_zero(missed):
    one, none = np.zeros((3, 3), int), np.zeros((3, 3), int)
    one[1, 1] = 1
    result = segmentation_metrics(*((none, one) if missed else (one, none)), num_classes=2)[1]
    assert [result[name] for name in ("dice", "iou", "precision", "sensitivity")] == [0, 0, 0, 0]


def test_more_than_256_classes_are_told_apart():
    label = np.array([[0, 256], [1, 2]])
    result = segmentation_metrics(label, label, num_classes=257, distances=False)
    assert result[256]["dice"] == 1 and math.isnan(result[255]["dice"])


def test_label_that_fills_the_image_has_no_specificity():
    full = np.ones((4, 4), np.uint8)
    result = segmentation_metrics(full, full, num_classes=2)[1]
    assert math.isnan(result["specificity"])
    assert (result["dice"], result["hd95"]) == (1, 0)


def test_every_foreground_class_has_every_metric():
    label = square((2, 8, 8), (1, 3), (1, 3), 1) + square((2, 8, 8), (4, 7), (4, 7), 3)
    result = segmentation_metrics(label, label, num_classes=5)
    assert list(result) == [1, 2, 3, 4]
    assert all(tuple(values) == OVERLAP_METRICS + DISTANCE_METRICS for values in result.values())
    assert result[3]["dice"] == 1 and result[3]["asd"] == 0
    assert tuple(segmentation_metrics(label, label, num_classes=5, distances=False)[1]) == OVERLAP_METRICS


def test_image_stored_as_one_slice_is_measured_in_its_plane():
    """In 3D every pixel of a single slice would be surface; a 2D image has a contour."""
    label, prediction = square((32, 32), (4, 28), (4, 28)), square((32, 32), (5, 28), (4, 28))
    plane = segmentation_metrics(prediction, label, (2.0, 2.0), num_classes=2)
    assert segmentation_metrics(prediction[None], label[None], (9.0, 2.0, 2.0), num_classes=2) == plane
    assert plane[1]["hd95"] == 2.0


def test_tensors_and_every_integer_dtype_are_accepted():
    label, prediction = square((3, 9, 9), (2, 6), (2, 6)), square((3, 9, 9), (3, 7), (2, 6))
    expected = segmentation_metrics(prediction, label, num_classes=2)
    assert segmentation_metrics(torch.tensor(prediction), torch.tensor(label).long(), num_classes=2) == expected
    assert segmentation_metrics(prediction.astype(bool), label.astype(np.int64)) == expected
    assert segmentation_metrics(prediction.astype(np.uint64), label.astype(np.int8)) == expected
    assert segmentation_metrics(prediction[:, ::-1, ::-1], label[:, ::-1, ::-1], num_classes=2) == expected


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([(7, 9), (4, 6, 5), (2, 3, 12), (1, 8, 8)]))
def test_distances_equal_those_of_distance_transforms(seed, shape):
    """An independent way to the same numbers: erosion and Euclidean distance transforms of the whole image."""
    rng = np.random.default_rng(seed)
    spacing = rng.uniform(0.5, 4, len(shape))
    prediction, label = rng.choice(3, (2, *shape), p=(0.5, 0.3, 0.2))
    result = segmentation_metrics(prediction, label, spacing, num_classes=3)
    if shape[0] == 1:
        prediction, label, spacing = prediction[0], label[0], spacing[1:]
    for index in (1, 2):
        masks = [prediction == index, label == index]
        surfaces = [mask & ~ndimage.binary_erosion(mask) for mask in masks]
        if not (masks[0].any() and masks[1].any()):
            continue
        forward = ndimage.distance_transform_edt(~surfaces[1], sampling=spacing)[surfaces[0]]
        backward = ndimage.distance_transform_edt(~surfaces[0], sampling=spacing)[surfaces[1]]
        percentiles = np.percentile(forward, 95), np.percentile(backward, 95)
        assert result[index]["hd95"] == pytest.approx(max(percentiles), abs=1e-9)
        assert result[index]["asd"] == pytest.approx(np.concatenate([forward, backward]).mean(), abs=1e-9)


def test_values_agree_with_independent_implementations(conformance_dir):
    """Every case, class, spacing and convention of metrics.json.

    Its `assd_mean_of_directed_means` is MedPy's `assd`, which pools the distances (the two columns agree to the last
    digits); the true mean of directed means, checked by hand above, is another number.
    """
    rows = json.loads((conformance_dir / "metrics.json").read_text())
    arrays = np.load(conformance_dir / "metrics.npz")
    assert len(rows) == 12
    for row in rows:
        maps = arrays[f"{row['case']}/prediction"], arrays[f"{row['case']}/label"]
        for hd95 in HD95_CONVENTIONS:
            for asd in ("assd_pooled", "asd_prediction_to_label"):
                named = Conventions(hd95, asd)
                result = segmentation_metrics(*maps, row["spacing"], 4, conventions=named)[row["label"]]
                expected = {name: row[name] for name in OVERLAP_METRICS} | {"hd95": row[hd95], "asd": row[asd]}
                assert result == pytest.approx(expected, abs=1e-9)
        assert row["assd_mean_of_directed_means"] == pytest.approx(row["assd_pooled"], abs=1e-12)
        directed = Conventions(asd="assd_mean_of_directed_means"), Conventions(asd="asd_prediction_to_label")
        means, back = (
            segmentation_metrics(*ordered, row["spacing"], 4, conventions=named)[row["label"]]["asd"]
            for ordered, named in zip((maps, maps[::-1]), directed, strict=True)
        )
        assert means == pytest.approx((row["asd_prediction_to_label"] + back) / 2, abs=1e-12)


def test_slice_dice_scores_each_slice_alone():
    label, prediction = np.zeros((3, 4, 4), np.uint8), np.zeros((3, 4, 4), np.uint8)
    label[0, :2] = 1
    prediction[0, 1:3] = 1
    prediction[1, 0] = 1
    np.testing.assert_array_equal(slice_dice(prediction, label, num_classes=3)[:, 0], [0.5, 0, np.nan])
    assert np.isnan(slice_dice(prediction, label, num_classes=3)[:, 1]).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prediction": np.zeros((2, 4, 5), int)}, r"differ in shape: \(2, 4, 5\) and \(2, 4, 4\)"),
        ({"prediction": np.zeros((2, 4, 4))}, "prediction holds float64; expected class indices"),
        ({"label": np.full((2, 4, 4), 254)}, r"label value 254 is not in 0\.\.1 \(num_classes=2\)"),
        ({"prediction": np.full((2, 4, 4), 255)}, "prediction value 255 is not in 0"),  # only a label has such pixels
        ({"label": np.full((2, 4, 4), 2)}, r"label value 2 is not in 0\.\.1"),
        ({"prediction": np.zeros((0, 4, 4), int), "label": np.zeros((0, 4, 4), int)}, r"got shape \(0, 4, 4\)"),
        ({"label": np.full((2, 4, 4), -1)}, "label value -1 is not in 0..1"),
        ({"prediction": np.zeros(4, int), "label": np.zeros(4, int)}, r"expected label maps of \(H, W\)"),
        ({"spacing_mm": (1.0, 1.0)}, "spacing_mm must be 3 positive numbers in array order"),
        ({"spacing_mm": (0.0, 1.0, 1.0)}, "spacing_mm must be 3 positive numbers"),
    ],
)
def test_bad_input_says_what_was_expected(change, message):
    arguments = {"prediction": np.zeros((2, 4, 4), int), "label": np.zeros((2, 4, 4), int), "num_classes": 2}
    with pytest.raises(ValueError, match=message):
        segmentation_metrics(**(arguments | change))


def test_an_unknown_convention_is_refused_where_it_is_named():
    with pytest.raises(ValueError, match=r"^unknown hd95 convention 'hd99'; choose one of hd95_max_of_directed_perc"):
        Conventions(hd95="hd99")
    with pytest.raises(ValueError, match="unknown asd convention 'assd'; choose one of assd_pooled"):
        Conventions(asd="assd")


@pytest.mark.parametrize("shape", [(1, 1), (1, 1, 1)])
def test_an_image_of_one_pixel_has_a_surface(shape):
    one, none = np.ones(shape, int), np.zeros(shape, int)
    assert segmentation_metrics(one, none, num_classes=2)[1]["hd95"] == math.inf
    assert segmentation_metrics(none, one, num_classes=2)[1]["asd"] == math.inf
    assert segmentation_metrics(one, one, num_classes=2)[1]["hd95"] == 0
    assert math.isnan(segmentation_metrics(none, none, num_classes=2)[1]["hd95"])


def with_ignored(labels, *window):
    labels = labels.copy()
    labels[window] = 255
    return labels


def test_pixels_without_ground_truth_are_not_counted():
    """Two squares of 16 pixels that share 8; the ignored column holds 4 shared pixels and 4 of background."""
    label = with_ignored(square((8, 8), (0, 4), (0, 4)), slice(None), 2)
    result = segmentation_metrics(square((8, 8), (0, 4), (2, 6)), label, num_classes=2, distances=False)[1]
    assert result == {
        "dice": 2 * 4 / (12 + 12),
        "iou": 4 / 20,
        "accuracy": 40 / 56,
        "precision": 4 / 12,
        "sensitivity": 4 / 12,
        "specificity": 36 / 44,
    }


def test_for_distances_ignored_pixels_are_background_in_both():
    label, prediction = square((20, 20), (5, 15), (5, 15)), square((20, 20), (5, 15), (5, 20))
    ignored = with_ignored(label, slice(None), slice(12, None))
    left = [np.where(np.arange(20) < 12, values, 0) for values in (prediction, label)]
    expected = segmentation_metrics(*left, num_classes=2)[1]
    result = segmentation_metrics(prediction, ignored, num_classes=2)[1]
    assert (result["hd95"], result["asd"]) == (expected["hd95"], expected["asd"]) == (0, 0)


def test_slice_dice_leaves_ignored_pixels_out():
    label, prediction = np.zeros((2, 2, 4), np.uint8), np.zeros((2, 2, 4), np.uint8)
    label[0, 0], prediction[0, 0, :2] = 1, 1
    label[0, :, 3] = label[1] = 255
    prediction[1] = 1
    np.testing.assert_array_equal(slice_dice(prediction, label, 2)[:, 0], [2 * 2 / (2 + 3), np.nan])


def test_number_of_classes_is_that_of_the_labels_without_the_ignored():
    label = with_ignored(square((6, 6), (1, 4), (1, 4), value=2), 0, 0)
    assert list(segmentation_metrics(np.where(label == 255, 0, label), label)) == [1, 2]


def test_a_data_set_of_256_classes_has_no_value_left_to_ignore():
    label = np.array([[0, 255], [1, 255]])
    assert segmentation_metrics(label, label, num_classes=256, distances=False)[255]["dice"] == 1
    ignored = segmentation_metrics(label % 255, label, num_classes=255, distances=False)
    assert ignored[1]["accuracy"] == 1 and math.isnan(ignored[254]["dice"])


def test_an_image_without_any_ground_truth_has_no_numbers():
    result = segmentation_metrics(np.ones((3, 3), int), np.full((3, 3), 255), num_classes=2)[1]
    assert all(math.isnan(value) for value in result.values())


def test_slice_dice_of_one_image_without_slices_is_refused():
    with pytest.raises(ValueError, match=r"needs arrays of \(D, H, W\)"):
        slice_dice(np.zeros((4, 4), int), np.zeros((4, 4), int), 2)


def test_only_distances_have_a_unit_in_their_title():
    titles = [metric_title("dice", "mm"), metric_title("hd95", "mm"), metric_title("asd")]
    assert titles == ["Dice", "HD95 (mm)", "ASD"]


def test_importing_metrics_loads_neither_scipy_nor_torch():
    code = "import sys, mamba_unet.evaluation.metrics; assert not {'scipy', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_classes_of_either_map_are_measured_where_their_number_is_not_said():
    low, high = np.array([[0, 1], [1, 0]]), np.array([[0, 1], [2, 0]])
    assert list(segmentation_metrics(low, high)) == list(segmentation_metrics(high, low)) == [1, 2]


def test_a_negative_index_is_refused_in_either_map():
    good, bad = np.array([[0, 1], [1, 0]]), np.array([[0, 1], [-1, 0]])
    for name, maps in (("prediction", (bad, good)), ("label", (good, bad))):
        with pytest.raises(ValueError, match=rf"{name} value -1 is not in 0\.\.1"):
            segmentation_metrics(*maps)


def test_both_slices_of_two_are_surface_all_over():
    """A hole in the middle is inside its slice, and yet a voxel of the surface: it lies at the end of the stack."""
    label = square((2, 7, 7), (2, 5), (2, 5))
    prediction = label.copy()
    prediction[:, 3, 3] = 0
    pooled = Conventions(asd="assd_pooled")
    assert segmentation_metrics(prediction, label, conventions=pooled)[1]["asd"] == pytest.approx(2 / (18 + 16))
