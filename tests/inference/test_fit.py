"""Warnings where image and network do not fit."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from mamba_unet.inference import Predictor
from mamba_unet.inference.fit import anatomy_misfits, describe_training, image_misfits
from mamba_unet.inference.pipeline import predict_files
from mamba_unet.views.intensity import MINMAX, window

SEEN = {
    "pixel_mm": [0.7, 0.8, 1.4, 1.8, 1.9],
    "side": [150, 160, 200, 280, 500],
    "side_mm": [200, 220, 300, 400, 450],
    "slices": [6, 7, 9, 12, 18],
    "stored": [[[0, 0, 5, 9, 10], [20, 0, 0, 0, 90], [50, 0, 0, 0, 200], [90, 0, 0, 0, 900], [200, 0, 0, 0, 1000]]],
    "scaled": [[[0.0] * 5, [0.1] * 5, [0.2, 0.2, 0.25, 0.3, 0.3], [0.4] * 5, [0.6] * 5]],
    "foreground": [0.01, 0.02, 0.04, 0.06, 0.08],
    "voxels": [[500, 900, 5000, 9000, 20000]],
    "volume_ml": [[50, 60, 100, 200, 300]],
}


class Data:
    """Two cases of known numbers, as a prepared data set tells of them."""

    num_classes = 3

    def __init__(self, spacing=(8.0, 1.5, 1.5)):
        self.spacing = spacing

    def shape(self, identifier):
        return {"a": (2, 4, 6), "b": (4, 4, 8)}[identifier]

    def spacing_mm(self, identifier):
        return self.spacing

    def is_labelled(self, identifier):
        return True

    def stored_quantiles(self, identifier):
        return [[0, 1, 2, 3, 4]]

    def label_voxels(self, identifier):
        return {"a": {0: 36, 1: 12}, "b": {0: 118, 1: 8, 2: 2}}[identifier]

    def case(self, identifier):
        return SimpleNamespace(image=np.full((1, *self.shape(identifier)), 0.25))


def image(values=(0.0, 0.1, 0.25, 0.4, 0.6), side=200):
    """(1, 9, side, side) whose quantiles are the values."""
    return np.interp(np.linspace(0, 100, 9 * side * side), (5, 25, 50, 75, 95), values).reshape(1, 9, side, side)


def test_training_cases_are_condensed_to_their_range():
    seen = describe_training(Data(), ["a", "b"])
    assert seen["cases"] == 2 and seen["slices"] == [2, 2.1, 3, 3.9, 4]
    assert seen["pixel_mm"] == [1.5] * 5 and seen["slice_mm"] == [8] * 5 and seen["side_mm"][::4] == [6, 12]
    assert [one[::4] for one in seen["voxels"]] == [[8, 12], [0, 2]]
    assert [one[::4] for one in seen["volume_ml"]] == [[0.144, 0.216], [0, 0.036]]
    assert seen["foreground"][::4] == [0.07812, 0.25]
    assert np.shape(seen["scaled"]) == np.shape(seen["stored"]) == (1, 5, 5)
    assert json.loads(json.dumps(seen)) == seen
    partly = Data()
    partly.label_voxels = lambda identifier: {1: 3, 255: 80}  # a scribble: no structure is as small
    assert not {"voxels", "foreground", "volume_ml"} & describe_training(partly, ["a"]).keys()
    assert not {"pixel_mm", "side_mm", "volume_ml"} & describe_training(Data(None), ["a"]).keys()


def test_an_image_like_those_of_the_training_has_no_misfit_and_neither_has_one_that_nothing_is_known_of():
    stored = 500 * image()
    assert image_misfits(SEEN, image(), stored, [MINMAX], (8, 1.4, 1.4)) == []
    assert image_misfits(SEEN, image(), stored, [MINMAX]) == []
    assert image_misfits({}, 7 * image(side=9), -stored, [MINMAX], (8, 90, 0.1)) == []
    assert image_misfits({"pixel_mm": "damaged", "scaled": 3}, image(), stored, [window(0, 1)], (8, 90, 0.1)) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"spacing_mm": (8, 0.25, 0.25)}, "pixels are 0.25 mm, the network was trained on 0.7 to 1.9 mm"),
        ({"spacing_mm": (8, 0.7, 0.5), "scaled": image(side=100)}, "slices are 70 x 50 mm, the network was trained"),
        ({"scaled": image(side=90)}, "slices are 90 pixels, the network was trained on 150 to 500"),
        (
            {"scaled": image((0, 0.1, 0.45, 0.5, 0.6))},
            "50 % of the intensities as the network sees them are below 0.45",
        ),
        ({"stored": 500 * image() - 400}, "5 % of the stored intensities are below -400, and training images had no"),
        ({"stored": 3000 * image(), "rules": [window(0, 1000)]}, "95 % of the intensities as stored are below 1,800"),
    ],
)
def test_what_is_outside_the_training_is_said(changes, message):
    given = {"scaled": image(), "stored": 500 * image(), "rules": [MINMAX]} | changes
    assert any(message in one for one in image_misfits(SEEN, **given)), image_misfits(SEEN, **given)


def test_z_scored_intensities_have_less_room():
    """0..1 holds six standard deviations, and medians of any two images lie within two."""
    values, zscore = image((0, 0.1, 0.37, 0.42, 0.6)), [{"method": "zscore"}]
    assert image_misfits(SEEN, values, None, zscore) and not image_misfits(SEEN, values, None, [MINMAX])
    assert not image_misfits(SEEN, image((0, 0.1, 0.34, 0.42, 0.6)), None, zscore)


def test_pixels_do_not_matter_to_a_network_whose_slices_are_resized():
    assert image_misfits(SEEN, image(side=900), None, (), (8, 0.3, 0.3), keeps_pixels=False) == []


def test_structures_are_compared_in_ml_or_in_voxels_and_a_part_of_an_image_may_hold_less():
    labels, names = np.zeros((1, 8, 100, 100), np.uint8), ["background", "ventricle"]
    labels[0, :, :10, :30] = 1  # 2400 voxels, 3 %
    assert anatomy_misfits(SEEN, labels, names, slices=8) == []
    assert anatomy_misfits(SEEN, labels, names, (8, 2, 2), 8) == []  # 76.8 ml
    (said,) = anatomy_misfits(SEEN, labels, names, (8, 8, 8), 8)
    assert said == "ventricle has 1,229 ml, in training 50 to 300"
    assert "0 voxels, in training 500 to" in anatomy_misfits(SEEN, 0 * labels, names, slices=8)[0]
    assert anatomy_misfits(SEEN, 0 * labels, names, slices=1) == []
    everything = anatomy_misfits(SEEN, np.ones_like(labels), names, slices=8)
    assert (
        "100 % of the image are structures, in training 1 to 8 %" in everything[0] and "80,000 voxels" in everything[1]
    )


def test_a_case_that_does_not_fit_is_warned_of_in_the_log_the_result_and_the_report(
    save_threshold, save_scan, tmp_path, caplog
):
    seen = {"side": [8, 8, 9, 9, 10], "slices": [1, 1, 1, 1, 1], "voxels": [[1, 1, 1, 1, 2]]}
    run, path = save_threshold(seen=seen), save_scan("a.nii.gz")
    predictor = Predictor(run, "cpu")
    misfits = ["bright has 25 voxels, in training 1 to 2"]
    assert list(predictor(path).misfits) == misfits
    assert "bright has 25 voxels, in training 1 to 2; its result may be wrong" in caplog.text
    caplog.clear()
    predict_files(predictor, [path], tmp_path / "out", report=tmp_path / "run.json")
    assert caplog.text.count("its result may be wrong") == 1 and "a.nii.gz" in caplog.text
    (case,) = json.loads((tmp_path / "run.json").read_text())["cases"]
    assert case["misfits"] == misfits
    assert list(Predictor(save_threshold("old"), "cpu")(path).misfits) == [], "a checkpoint that tells of no training"


def test_a_ct_is_no_heart_and_a_heart_is_one(acdc_dir, ct_dir):
    predictor = Predictor("acdc", "cpu")
    said = predictor(ct_dir / "ct.nii.gz").warning
    assert "training images had no negative ones" in said and said.endswith("its result may be wrong")
    heart = predictor(acdc_dir / "ACDC_training_volumes" / "patient002_frame01.h5")
    assert heart.warning == ""
