"""Images without labels and scribbles beside labels, from each layout to the cases that training takes."""

import json

import h5py
import numpy as np
import pytest

from mamba_unet.data import BadDataError, PreparedDataset, check, export, prepare
from mamba_unet.data.annotated import Annotated
from mamba_unet.files import write_json
from mamba_unet.training.labelled import choose_labelled

LABELS = {"background": 0, "one": 1, "two": 2, "three": 3}


def scribbled(label: np.ndarray, unmarked: int) -> np.ndarray:
    """The first row of every slice alone."""
    result = np.full_like(label, unmarked)
    result[:, 0] = label[:, 0]
    return result


@pytest.fixture
def mixed_set(nnunet, make, tmp_path) -> PreparedDataset:
    """Ten labelled patients with scribbles, three images in `unlabelled`: of nobody else, and of a labelled patient."""
    source = nnunet(count=10, labels={**LABELS, "ignore": 9})
    for seed in range(10):
        make.nifti(source / "scribblesTr" / f"s{seed}.nii.gz", scribbled(make.subject(seed).label, 9))
    for name, seed in (("u1", 20), ("u2", 21), ("s0_frame2", 22)):
        make.nifti(source / "unlabelled" / f"{name}_0000.nii.gz", make.subject(seed).image)
    (source / "labelsTr" / "s9.nii.gz").unlink()  # has its scribble alone
    return prepare(source, tmp_path / "prepared", folds=3, progress=False)


def test_images_without_labels_and_scribbles_are_prepared(mixed_set, make):
    unlabelled = ["s0_frame2", "s9", "u1", "u2"]
    assert sorted(mixed_set.splits["unlabelled"]) == unlabelled
    assert not any(mixed_set.is_labelled(name) for name in unlabelled) and mixed_set.is_labelled("s0")
    assert mixed_set.case("u1").label is None and mixed_set.shape("u1") == (3, 16, 12)
    assert all(set(unlabelled).isdisjoint(cases) for name, cases in mixed_set.splits.items() if name != "unlabelled")
    expected = scribbled(make.subject(3).label, 255)
    np.testing.assert_array_equal(mixed_set.annotation("s3", "scribble"), expected)
    np.testing.assert_array_equal(Annotated(mixed_set, "scribble").case("s3").label, expected)
    assert (Annotated(mixed_set, None).case("s3").label == 255).all()
    hashes = {
        Annotated(mixed_set, "scribble").content_hash("s3"),
        Annotated(mixed_set, None).content_hash("s3"),
        mixed_set.content_hash("s3"),
    }
    assert len(hashes) == 3, "what is resampled of one is not taken for the other"
    assert mixed_set.marked(["s3"], "scribble")[0] == pytest.approx(1 / 16)
    check_text = (mixed_set.folder / "check.txt").read_text()
    assert "image without label" in check_text and "s9" in check_text
    patients = json.loads((mixed_set.folder / "splits.json").read_text())["patients"]
    assert patients["unlabelled"] == ["s9", "u1", "u2"], "s0 has a label, so its other image is its own"


def test_scribbles_go_along_to_nnunets_layout_and_come_back(mixed_set, tmp_path):
    export(mixed_set, tmp_path / "exported", "nnunet", progress=False)
    again = prepare(tmp_path / "exported", tmp_path / "again", progress=False)
    for name in mixed_set.splits["train"]:
        np.testing.assert_array_equal(again.annotation(name, "scribble"), mixed_set.annotation(name, "scribble"))


def test_no_image_of_a_patient_to_be_validated_or_tested_is_learned_from(mixed_set):
    folds = [None, 0, 1, 2]
    for fold in folds:
        prefix = "" if fold is None else f"fold{fold}/"
        held_out = {mixed_set.patient(c) for part in ("val", "test") for c in mixed_set.splits[prefix + part]}
        with_labels, without = choose_labelled(mixed_set, fold, 2, "label", 0)
        assert {"u1", "u2", "s9"} <= set(without) and not set(with_labels) & set(without)
        assert not {mixed_set.patient(case) for case in (*with_labels, *without)} & held_out
        assert ("s0_frame2" in without) == ("s0" not in held_out)
    assert any("s0_frame2" in choose_labelled(mixed_set, fold, 2, "label", 0)[1] for fold in folds)


def test_a_patient_counts_as_a_whole_and_fewer_are_a_part_of_more(mixed_set):
    chosen = {count: set(choose_labelled(mixed_set, None, count, "label", 0)[0]) for count in (1, 3, 5)}
    assert chosen[1] < chosen[3] < chosen[5] and [len(cases) for cases in chosen.values()] == [1, 3, 5]
    assert any(set(choose_labelled(mixed_set, None, 3, "label", seed)[0]) != chosen[3] for seed in (1, 2, 3))
    training = mixed_set.splits["train"]
    named = choose_labelled(mixed_set, None, training[:2], "label", 0)[0]
    assert named == training[:2] and choose_labelled(mixed_set, None, None, "label", 0)[0] == training
    assert "s9" in choose_labelled(mixed_set, None, None, "scribble", 0)[0], "it has a scribble"


def test_the_same_image_under_another_name_is_not_learned_from(nnunet, make, tmp_path):
    source = nnunet(count=6)
    for seed in range(6):
        make.nifti(source / "unlabelled" / f"copy{seed}_0000.nii.gz", make.subject(seed).image)
    report = check(source, progress=False)
    assert {problem.severity for problem in report.problems if problem.problem == "duplicate case"} == {
        "error",  # of those to be validated or tested
        "warning",
    }


def test_labelled_patients_who_are_to_be_unlabelled_are_refused_with_the_way(nnunet, tmp_path):
    write_json(tmp_path / "splits.json", {"train": ["s0", "s1"], "val": ["s2"], "test": ["s3"], "unlabelled": ["s4"]})
    with pytest.raises(ValueError, match=r"patients with labels in 'unlabelled'[\s\S]*s4[\s\S]*labelled: \[\.\.\.\]"):
        prepare(nnunet(count=5), tmp_path / "out", splits=tmp_path / "splits.json", progress=False)


def test_an_image_of_a_fold_that_is_tested_is_not_learned_from_under_another_name(nnunet, make, tmp_path):
    source = nnunet(count=6)
    make.nifti(source / "unlabelled" / "copy_frame1_0000.nii.gz", make.subject(0).image)  # of s0
    make.nifti(source / "unlabelled" / "copy_frame2_0000.nii.gz", make.subject(9).image)  # so of s0 too
    write_json(tmp_path / "splits.json", {"train": ["s0", "s1", "s2", "s3"], "val": ["s4"], "test": ["s5"]})
    prepared = prepare(source, tmp_path / "out", splits=tmp_path / "splits.json", folds=3, progress=False)
    tested = []
    for fold in range(3):
        held = {case for part in ("val", "test") for case in prepared.splits[f"fold{fold}/{part}"]}
        without = choose_labelled(prepared, fold, 2, "label", 0)[1]
        assert all((f"copy_frame{n}" in without) == ("s0" not in held) for n in (1, 2))
        tested += prepared.splits[f"fold{fold}/test"]
    assert "s0" in tested


def test_scribbles_that_do_not_fit_are_refused(nnunet, make, tmp_path):
    source = nnunet(count=6)
    label = make.subject(0).label
    make.nifti(source / "scribblesTr" / "s0.nii.gz", scribbled(label, 9))
    with pytest.raises(ValueError, match=r"s0\.nii\.gz: scribbles need a value for what is not marked"):
        check(source, progress=False)
    write_json(source / "dataset.json", {"labels": {**LABELS, "ignore": 9}})
    make.nifti(source / "scribblesTr" / "s1.nii.gz", scribbled(label, 7))
    make.nifti(source / "scribblesTr" / "s2.nii.gz", scribbled(label, 9)[:2])
    drawn = {seed: scribbled(make.subject(seed).label, 9) for seed in (0, 3, 4, 5)}
    for marks in (drawn[3][0, 0, :2], drawn[4][:, 0]):  # a slip; all
        marks[:] = (marks + 1) % 4
    drawn[5][drawn[5] == 9] = 0
    for seed, marks in drawn.items():
        make.nifti(source / "scribblesTr" / f"s{seed}.nii.gz", marks)
    make.nifti(source / "scribblesTr" / "s7.nii.gz", scribbled(label, 9))
    with pytest.raises(BadDataError) as refused:
        prepare(source, tmp_path / "out", progress=False)
    found = {problem.case: (problem.problem, problem.severity) for problem in refused.value.report.problems}
    assert found == {
        "s1": ("scribble values outside the classes", "error"),
        "s2": ("image and scribble differ in shape", "error"),
        "s3": ("scribbles that contradict the label", "note"),
        "s4": ("scribbles that contradict the label", "warning"),
        "s5": ("a scribble that marks every pixel", "warning"),
        "s7": ("scribble without image", "error"),
    }


def test_scribbles_of_wsl4mis_are_read_and_change_no_fingerprint(make, tmp_path):
    def write(folder, with_scribbles):
        for number in (3, 4, 2, 1):
            subject = make.subject(number)
            image = (subject.image - subject.image.min()) / np.ptp(subject.image)
            path = make.h5(folder / f"patient{number:03d}_frame01.h5", image.astype(np.float32), subject.label)
            if with_scribbles:
                with h5py.File(path, "a") as file:
                    file["scribble"] = scribbled(subject.label, 4).astype(np.uint16)
        return prepare(folder, folder.with_name(f"{folder.name}_prepared"), progress=False)

    drawn, plain = write(tmp_path / "drawn", True), write(tmp_path / "plain", False)
    np.testing.assert_array_equal(
        drawn.annotation("patient003_frame01", "scribble"), scribbled(make.subject(3).label, 255)
    )
    assert drawn.fingerprint == plain.fingerprint and not plain.annotated(plain.identifiers, "scribble")
    said = "note: scribbles: 4 cases of 4 patients, 6.25 % of their pixels marked: `annotation: scribble` in a recipe"
    assert said in (drawn.folder / "check.txt").read_text()
    assert "note: scribbles" not in (plain.folder / "check.txt").read_text()


def test_a_folder_of_images_and_masks_may_have_both(picture_set, save_picture, tmp_path):
    source = picture_set([f"p{n}" for n in range(6)], values=(0, 1, 2))
    rng = np.random.default_rng(1)
    save_picture(source / "unlabelled" / "q.png", rng.integers(0, 256, (8, 9), dtype=np.uint8))
    mark = np.full((8, 9), 200, np.uint8)
    mark[0, :3] = (0, 1, 2)
    for name in ("p3", "p4"):
        save_picture(source / "scribbles" / f"{name}.png", mark)
    (source / "masks" / "p4.png").unlink()
    (error,) = check(source, ignore_label=200, progress=False).errors
    assert (error.case, error.problem) == ("p4", "image without label")
    assert error.remedy == "add it, or take the image away, or move it to unlabelled/"
    (source / "images" / "p4.png").rename(source / "unlabelled" / "p4.png")
    prepared = prepare(source, tmp_path / "out", ignore_label=200, progress=False)
    assert sorted(prepared.splits["unlabelled"]) == ["p4", "q"]
    assert sorted(prepared.annotated(prepared.identifiers, "scribble")) == ["p3", "p4"]
    assert prepared.annotation("p3", "scribble")[0, 0, :4].tolist() == [0, 1, 2, 255]


def test_an_image_without_label_is_of_the_patient_whose_name_it_begins_with(picture_set, save_picture, tmp_path):
    source = picture_set([f"P{n}/{name}" for n in range(6) for name in ("a", "b")])
    rng = np.random.default_rng(1)
    for name in ("P0_coronal", "P1_a_again", "P12_coronal", "P4", "new", "P2/c"):
        save_picture(source / "unlabelled" / f"{name}.png", rng.integers(0, 256, (8, 9), dtype=np.uint8))
    prepared = prepare(source, tmp_path / "out", progress=False)
    patients = {case: prepared.patient(case) for case in prepared.splits["unlabelled"]}
    assert patients == {
        "P0_coronal": "P0",
        "P1_a_again": "P1",
        "P12_coronal": "P12_coronal",
        "P4": "P4",
        "new": "new",
    }
    told = (prepared.folder / "check.txt").read_text()
    assert "folder in unlabelled" in told and "which is not looked into" in told


def test_a_split_of_the_users_need_not_name_images_without_labels(nnunet, make, tmp_path):
    source, file = nnunet(count=3), tmp_path / "split.json"
    make.nifti(source / "unlabelled" / "u_0000.nii.gz", make.subject(9).image)
    for named, message in (({}, None), ({"unlabelled": ["u"]}, None), ({"other": ["u"]}, "no label to measure")):
        file.write_text(json.dumps({"train": ["s0"], "val": ["s1"], "test": ["s2"], **named}))
        report = check(source, splits=file, progress=False)
        assert [message in problem.problem for problem in report.errors] == ([True] if message else [])
