import shutil

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
    # with images without labels, and the split file that was written of them
    shutil.copytree(source, tmp_path / "more")
    make.nifti(tmp_path / "more" / "unlabelled" / "u1_0000.nii.gz", 900 + make.subject(7).image)
    more = prepare(
        tmp_path / "more", tmp_path / "b", splits=tmp_path / "splits.json", progress=False, intensity="nnunet"
    )
    again = prepare(
        tmp_path / "more", tmp_path / "c", splits=more.folder / "splits.json", progress=False, intensity="nnunet"
    )
    assert more.intensity == again.intensity == prepared.intensity
    shutil.copytree(source, tmp_path / "bad")
    far = make.subject(3, (4, 30, 30))  # of the training, its label another size than its image: left out
    make.nifti(tmp_path / "bad" / "imagesTr" / "s3_0000.nii.gz", np.where(far.label > 0, 900, -1000).astype(np.int16))
    make.nifti(tmp_path / "bad" / "labelsTr" / "s3.nii.gz", far.label, affine=np.diag([9, 9, 9, 1]))
    how = {"splits": tmp_path / "splits.json", "progress": False, "intensity": "nnunet", "skip_bad": True}
    bad = prepare(tmp_path / "bad", tmp_path / "e", **how)
    assert "s3" not in bad.identifiers and bad.intensity[0]["high"] < 200
    folded = prepare(source, tmp_path / "f", folds=3, progress=False, intensity="nnunet")
    said = "measured on the split train for all folds"
    assert said in (folded.folder / "check.txt").read_text() and said not in (bad.folder / "check.txt").read_text()
    write_json(tmp_path / "none.json", {"test": [f"s{seed}" for seed in range(6)]})
    with pytest.raises(ValueError, match=r"measures the training patients, and the split has none"):
        prepare(source, tmp_path / "d", splits=tmp_path / "none.json", progress=False, intensity="nnunet")


def test_the_window_is_that_of_the_patients_who_are_trained_on_in_the_end(tmp_path, make):
    """Two patients who have the same image are drawn together, which is known only once all images were read."""
    source = tmp_path / "raw"
    for seed in range(6):
        subject = make.subject(seed % 5, (4, 30, 30))  # the last is the first
        body = np.random.default_rng(seed % 5).normal(100 + 100 * (seed % 5), 5, subject.label.shape)
        make.nifti(
            source / "imagesTr" / f"s{seed}_0000.nii.gz", np.where(subject.label > 0, body, -1000).astype(np.int16)
        )
        make.nifti(source / "labelsTr" / f"s{seed}.nii.gz", subject.label)
    labels = {"background": 0, "one": 1, "two": 2, "three": 3}
    write_json(source / "dataset.json", {"channel_names": {"0": "CT"}, "labels": labels})
    for seed in range(6):
        prepared = prepare(source, tmp_path / str(seed), seed=seed, progress=False, intensity="nnunet")
        means = [100 + 100 * (int(case[1:]) % 5) for case in prepared.splits["train"]]
        low, high = (prepared.intensity[0][end] for end in ("low", "high"))
        assert abs(low - min(means)) < 30 and abs(high - max(means)) < 30
