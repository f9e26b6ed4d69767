import numpy as np
import pytest

from mamba_unet.data import prepare
from mamba_unet.files import write_json
from mamba_unet.views.intensity import ZSCORE


def test_ct_is_windowed_between_percentiles_of_the_training_foreground_and_the_rest_is_z_scored(tmp_path, make):
    source = tmp_path / "raw"
    for seed in range(6):
        subject = make.subject(seed, (4, 30, 30))
        body = np.random.default_rng(seed).normal(100, 20, subject.label.shape)
        ct = np.where(subject.label > 0, body, -1000).astype(np.int16)
        make.nifti(source / "imagesTr" / f"s{seed}_0000.nii.gz", ct)
        make.nifti(source / "imagesTr" / f"s{seed}_0001.nii.gz", subject.image)
        make.nifti(source / "labelsTr" / f"s{seed}.nii.gz", subject.label)
    labels = {"background": 0, "one": 1, "two": 2, "three": 3}
    write_json(source / "dataset.json", {"channel_names": {"0": "CT", "1": "MRI"}, "labels": labels})
    prepared = prepare(source, tmp_path / "data", progress=False, intensity="nnunet")
    ct, mri = prepared.intensity
    assert ct["method"] == "window" and mri == ZSCORE
    assert (ct["low"], ct["high"]) == (pytest.approx(100 - 2.576 * 20, abs=4), pytest.approx(100 + 2.576 * 20, abs=4))
    image = prepared.case("s0").image
    assert image[0].min() == 0 and image[0].max() == 1
    assert image[1].mean() == pytest.approx(0.5, abs=1e-5) and image[1].std() == pytest.approx(1 / 6, abs=1e-5)
    assert prepare(source, tmp_path / "again", progress=False).intensity[0]["low"] == -125  # unless asked otherwise


def test_patients_who_are_not_trained_on_have_no_part_in_the_window(tmp_path, make):
    source = tmp_path / "raw"
    for seed in range(6):
        subject = make.subject(seed, (4, 30, 30))
        body = np.random.default_rng(seed).normal(100 if seed < 4 else 900, 20, subject.label.shape)
        ct = np.where(subject.label > 0, body, -1000).astype(np.int16)
        make.nifti(source / "imagesTr" / f"s{seed}_0000.nii.gz", ct)
        make.nifti(source / "labelsTr" / f"s{seed}.nii.gz", subject.label)
    labels = {"background": 0, "one": 1, "two": 2, "three": 3}
    write_json(source / "dataset.json", {"channel_names": {"0": "CT"}, "labels": labels})
    write_json(tmp_path / "splits.json", {"train": ["s0", "s1", "s2", "s3"], "val": ["s4"], "test": ["s5"]})
    prepared = prepare(source, tmp_path / "data", splits=tmp_path / "splits.json", progress=False, intensity="nnunet")
    assert prepared.intensity[0]["high"] < 200
