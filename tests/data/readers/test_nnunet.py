import json

import numpy as np
import pytest
from PIL import Image

from mamba_unet.data import check, detect_layout, prepare
from mamba_unet.data.readers import nnunet as reader


def test_second_version(nnunet, tmp_path, make):
    source = nnunet(name="Hearts")
    assert detect_layout(source)[0] is reader.NNUNET
    prepared = prepare(source, tmp_path / "out", progress=False)
    assert prepared.name == "Hearts" and prepared.class_names == ["background", "one", "two", "three"]
    assert np.array_equal(prepared.case("s3").image[0], make.minmax(make.subject(3).image))
    assert np.array_equal(prepared.case("s3").label, make.subject(3).label)


def test_first_version(nnunet, tmp_path):
    source = nnunet()
    described = {"modality": {"0": "MRI"}, "labels": {"0": "background", "1": "a", "2": "b", "3": "c"}}
    (source / "dataset.json").write_text(json.dumps(described))
    assert prepare(source, tmp_path / "out", progress=False).class_names == ["background", "a", "b", "c"]


def test_uncompressed_nifti(nnunet):
    assert len(detect_layout(nnunet(ending=".nii"))[1].entries) == 5


def test_pictures(tmp_path, make):
    for seed in range(3):
        subject = make.subject(seed)
        for folder, name, array in (("imagesTr", "_0000", subject.image), ("labelsTr", "", subject.label)):
            (tmp_path / "src" / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array[0].astype(np.uint8)).save(tmp_path / "src" / folder / f"s{seed}{name}.png")
    labels = {"background": 0, "a": 1, "b": 2, "c": 3}
    (tmp_path / "src" / "dataset.json").write_text(json.dumps({"channel_names": {"0": "x"}, "labels": labels}))
    prepared = prepare(tmp_path / "src", tmp_path / "out", progress=False)
    assert prepared.shape("s0") == (1, 16, 12)
    assert np.array_equal(prepared.case("s0").label[0], make.subject(0).label[0])


def test_labels_are_classes_in_the_order_of_their_values(nnunet, tmp_path, make):
    source = nnunet(labels={"three": 3, "background": 0, "one": 1, "two": 2})
    assert prepare(source, tmp_path / "out", progress=False).class_names == ["background", "one", "two", "three"]


@pytest.mark.parametrize(
    ("described", "message"),
    [
        ({"channel_names": {"0": "T1", "1": "T2"}}, r"2 channels \(T1, T2\)"),
        ({"labels": {"background": 0, "whole": [1, 2], "core": 2}}, "region-based"),
        ({"labels": {"background": 0, "one": 1, "ignore": 2}}, "ignore labels"),
        ({"labels": {"one": 1, "two": 2}}, "0 among them"),
        ({"labels": {}}, '"labels"'),
    ],
)
def test_what_is_not_supported_is_said(nnunet, described, message):
    with pytest.raises(ValueError, match=message):
        detect_layout(nnunet(**described))


def test_files_of_a_second_channel_are_an_error(nnunet, make):
    source = nnunet()
    make.nifti(source / "imagesTr" / "s0_0001.nii.gz", make.subject(0).image)
    with pytest.raises(ValueError, match=r"s0_0001\.nii\.gz: expected CASE_0000"):
        detect_layout(source)


def test_missing_and_broken_description_are_errors(nnunet):
    source = nnunet()
    (source / "dataset.json").write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        detect_layout(source)
    (source / "dataset.json").unlink()
    with pytest.raises(ValueError, match=r"no dataset\.json"):
        detect_layout(source)


def test_labelled_test_images_are_the_test_split(nnunet, tmp_path, make):
    source = nnunet(count=9)
    for seed in (20, 21):
        make.nifti(source / "imagesTs" / f"t{seed}_0000.nii.gz", make.subject(seed).image)
        make.nifti(source / "labelsTs" / f"t{seed}.nii.gz", make.subject(seed).label)
    splits = prepare(source, tmp_path / "out", progress=False).splits
    assert splits["test"] == ["t20", "t21"]
    assert len(splits["val"]) == 1 and len(splits["train"]) == 8


def test_a_patient_in_training_and_test_is_an_error(nnunet, make):
    source = nnunet(count=3)
    for folder, seed, frame in (("Tr", 30, 1), ("Ts", 31, 2)):
        make.nifti(source / f"images{folder}" / f"p_frame0{frame}_0000.nii.gz", make.subject(seed).image)
        make.nifti(source / f"labels{folder}" / f"p_frame0{frame}.nii.gz", make.subject(seed).label)
    errors = check(source, progress=False).errors
    assert (errors[0].problem, errors[0].found) == ("one patient in two splits", "p in both")


def test_unlabelled_test_images_are_left_alone_and_said(nnunet, make):
    source = nnunet()
    make.nifti(source / "imagesTs" / "t_0000.nii.gz", make.subject(9).image)
    listing = detect_layout(source)[1]
    assert len(listing.entries) == 5 and "imagesTs is left alone" in listing.notes[0]


def test_ct_is_windowed_and_said_so(nnunet, tmp_path):
    prepared = prepare(nnunet(channel_names={"0": "CT"}), tmp_path / "out", progress=False)
    assert prepared.intensity[0]["method"] == "window"
    assert "CT is windowed" in (tmp_path / "out" / "check.txt").read_text()


def test_known_dataset_in_this_layout_takes_its_names_split_and_intensity(nnunet, tmp_path, make):
    source = nnunet(count=0, labels={"background": 0, "RV": 1, "MLV": 2, "LVC": 3})
    for seed, patient in enumerate((1, 2, 3)):
        subject = make.subject(seed)
        make.nifti(source / "imagesTr" / f"patient00{patient}_frame01_0000.nii.gz", subject.image)
        make.nifti(source / "labelsTr" / f"patient00{patient}_frame01.nii.gz", subject.label)
    prepared = prepare(source, tmp_path / "out", dataset="acdc", progress=False)
    assert prepared.name == "acdc" and prepared.class_names[1] == "right ventricle"
    assert prepared.splits["val"] == ["patient002_frame01"]
    assert "RV -> right ventricle" in (tmp_path / "out" / "check.txt").read_text()
    with pytest.raises(ValueError, match="names 4 classes"):
        prepare(source, tmp_path / "out2", dataset="synapse", progress=False)
