"""Each check, on a data set that is broken in that way and in no other."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pytest

from mamba_unet.data import BadDataError, check, prepare
from mamba_unet.data.checks import check_case
from mamba_unet.volumes.volume import Volume


def only(report, severity="error"):
    """The one problem of the report."""
    (problem,) = report.problems
    assert problem.severity == severity
    table = report.table()
    rows = table[table.index(f"\n{severity}: ") :].splitlines()
    assert all(len(line) <= 80 or "/" in line for line in rows)  # a path stays whole
    assert problem.file.name in table and problem.remedy in " ".join(table.split())
    return problem


def test_a_sound_data_set_has_no_problems(nnunet):
    report = check(nnunet(), progress=False)
    assert not report.problems and report.cases == [f"s{k}" for k in range(5)]
    assert report.table().endswith("0 errors, 0 warnings")


def test_image_and_label_of_different_shape(nnunet, make):
    source = nnunet()
    make.nifti(source / "labelsTr" / "s1.nii.gz", make.subject(1).label[:, :-1])
    problem = only(check(source, progress=False))
    assert problem.problem == "image and label differ in shape" and problem.case == "s1"
    assert "(3, 16, 12)" in problem.expected and problem.found == "(3, 15, 12)"


@pytest.mark.parametrize("change", ["shifted", "turned", "identity"])
def test_image_and_label_of_different_affine(nnunet, make, change):
    source, affine = nnunet(), make.affine.copy()
    if change == "shifted":
        affine[0, 3] += 1.0
    elif change == "turned":
        affine[:2, :2] = [[-1.5, 0.2], [0.2, -1.4]]
    else:
        affine = np.eye(4)
    make.nifti(source / "labelsTr" / "s1.nii.gz", make.subject(1).label, affine)
    assert only(check(source, progress=False)).problem == "image and label differ in affine"


def test_affines_that_agree_within_rounding_are_the_same(nnunet, make):
    source = nnunet()
    make.nifti(source / "labelsTr" / "s1.nii.gz", make.subject(1).label, make.affine + 1e-4 * np.eye(4, k=1))
    assert not check(source, progress=False).problems


def test_slices_that_lie_across_another_axis_than_training_cuts(nnunet, make):
    source, subject = nnunet(), make.subject(1)
    sagittal = np.diag([8.0, 1.4, 1.4, 1.0])
    make.nifti(source / "imagesTr" / "s1_0000.nii.gz", subject.image, sagittal)
    make.nifti(source / "labelsTr" / "s1.nii.gz", subject.label, sagittal)
    problem, *_ = check(source, progress=False).warnings
    assert problem.problem == "slices are cut across others than were acquired" and problem.case == "s1"
    assert problem.found == "8 mm along X, 1.4 mm along Z"


def test_label_values_outside_the_classes(nnunet, make):
    source, label = nnunet(), make.subject(1).label
    label[0, 0, :2] = 4, 255
    make.nifti(source / "labelsTr" / "s1.nii.gz", label)
    problem = only(check(source, progress=False))
    assert problem.problem == "label values outside the classes"
    assert problem.found == "4, 255" and problem.expected == "only 0, 1, 2, 3"


@pytest.mark.parametrize("value", [0.5, np.nan, -1])
def test_label_values_that_are_no_classes_at_all(nnunet, make, value):
    source, label = nnunet(), make.subject(1).label.astype(np.float32)
    label[0, 0, 0] = value
    make.nifti(source / "labelsTr" / "s1.nii.gz", label)
    assert only(check(source, progress=False)).problem == "label values outside the classes"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_non_finite_image(nnunet, make, value):
    source, image = nnunet(), make.subject(1).image.astype(np.float32)
    image[0, 0, :3] = value
    make.nifti(source / "imagesTr" / "s1_0000.nii.gz", image)
    problem = only(check(source, progress=False))
    assert problem.problem == "NaN or infinity in the image" and problem.found.startswith("3 of ")


def test_constant_image(nnunet, make):
    source = nnunet()
    make.nifti(source / "imagesTr" / "s1_0000.nii.gz", np.full((3, 16, 12), 7, np.int16))
    problem = only(check(source, progress=False))
    assert problem.problem == "constant image" and problem.found == "7 everywhere"


@pytest.mark.parametrize("file", ["imagesTr/s1_0000.nii.gz", "labelsTr/s1.nii.gz"])
def test_truncated_file(nnunet, file):
    path = nnunet() / file
    path.write_bytes(path.read_bytes()[:200])
    problem = only(check(path.parents[1], progress=False))
    assert problem.problem == "unreadable file" and problem.file == path


@pytest.mark.parametrize(
    ("file", "what", "severity"),
    [
        ("imagesTr/s1_0000.nii.gz", "label without image", "error"),
        ("labelsTr/s1.nii.gz", "image without label", "warning"),  # it may be meant to serve without
    ],
)
def test_missing_partner(nnunet, file, what, severity):
    source = nnunet()
    (source / file).unlink()
    (problem,) = check(source, progress=False).problems
    assert (problem.problem, problem.severity) == (what, severity)


def test_duplicate_case_by_name(nnunet, make):
    source = nnunet()
    make.nifti(source / "imagesTr" / "s1_0000.nii", make.subject(1).image)
    problem = only(check(source, progress=False))
    assert problem.problem == "duplicate case" and problem.case == "s1"


def copy_case(source, old, new):
    shutil.copy(source / "imagesTr" / f"{old}_0000.nii.gz", source / "imagesTr" / f"{new}_0000.nii.gz")
    shutil.copy(source / "labelsTr" / f"{old}.nii.gz", source / "labelsTr" / f"{new}.nii.gz")


def test_the_same_image_under_two_names_is_drawn_into_one_split_with_a_warning(nnunet):
    source = nnunet()
    copy_case(source, "s1", "zz")
    report = check(source, progress=False, folds=3)
    problem = only(report, "warning")
    assert problem.problem == "duplicate case" and "the image of s1 again" in problem.found


def test_the_same_image_in_two_splits_is_an_error(nnunet, tmp_path):
    source = nnunet()
    copy_case(source, "s1", "zz")
    file = tmp_path / "split.json"
    file.write_text(json.dumps({"train": ["s0", "s1", "s2"], "val": ["s3"], "test": ["s4", "zz"]}))
    problem = only(check(source, splits=file, progress=False))
    assert problem.problem == "duplicate case" and "test and train" in problem.found


def test_one_patient_in_two_splits(nnunet, tmp_path):
    file = tmp_path / "split.json"
    file.write_text(json.dumps({"train": ["s0", "s1", "s2"], "val": ["s3", "s2"], "test": ["s4", "s1"]}))
    problem = only(check(nnunet(), splits=file, progress=False))
    assert problem.problem == "one patient in two splits"
    assert problem.found == "s1 in train and test; s2 in train and val"


def test_empty_label_is_a_warning_where_it_may_be_right(nnunet, make):
    source = nnunet()
    make.nifti(source / "labelsTr" / "s1.nii.gz", np.zeros((3, 16, 12), np.uint8))
    assert only(check(source, progress=False), "warning").problem == "empty label"


def test_empty_label_is_an_error_where_every_case_shows_the_organs(tmp_path, make):
    for number in range(3):
        subject = make.subject(number)
        label = subject.label * (number > 0)
        make.h5(tmp_path / f"patient00{number + 1}_frame01.h5", subject.image, label)
    assert only(check(tmp_path, progress=False)).problem == "empty label"


def test_orientation_that_differs_is_a_warning(nnunet, make, tmp_path):
    source, flipped = nnunet(), make.affine * np.array([-1, 1, 1, 1])
    make.nifti(source / "imagesTr" / "s1_0000.nii.gz", make.subject(1).image, flipped)
    make.nifti(source / "labelsTr" / "s1.nii.gz", make.subject(1).label, flipped)
    problem = only(check(source, progress=False), "warning")
    assert problem.expected == "SPL, as 4 cases" and problem.found == "SPR: s1"
    assert prepare(source, tmp_path / "out", progress=False).orientation is None


def test_a_class_that_no_label_shows_is_a_warning(nnunet):
    labels = {"background": 0, "one": 1, "two": 2, "three": 3, "four": 4}
    problem = only(check(nnunet(labels=labels), progress=False), "warning")
    assert (problem.problem, problem.found) == ("classes that no label shows", "four")


def test_validation_without_foreground_is_a_warning(nnunet, make, tmp_path):
    source, file = nnunet(), tmp_path / "split.json"
    make.nifti(source / "labelsTr" / "s3.nii.gz", np.zeros((3, 16, 12), np.uint8))
    file.write_text(json.dumps({"train": ["s0", "s1", "s2"], "val": ["s3"], "test": ["s4"]}))
    problems = {problem.problem: problem for problem in check(source, splits=file, progress=False).warnings}
    assert set(problems) == {"empty label", "no foreground in val"}
    assert problems["no foreground in val"].found == "background only in s3"
    folds = check(source, folds=5, progress=False).warnings
    assert sum(problem.problem.startswith("no foreground in fold") for problem in folds) == 1


def test_remarks_of_the_reader_on_a_header_are_warnings(make):
    subject = make.subject(0)
    volume = replace(Volume.from_array(subject.image), notes=("sform says 1 mm, pixdim 10 mm",))
    label = Volume.from_array(subject.label)
    values = {value: value for value in range(4)}
    (problem,) = check_case("a", Path("a"), volume, Path("b"), label, values, scaled=False, empty_is_error=False)
    assert (problem.problem, problem.severity, problem.file) == ("doubtful header", "warning", Path("a"))
    assert problem.found == "sform says 1 mm, pixdim 10 mm"


def test_equal_problems_are_one_row(picture_set):
    names = [f"a{number}" for number in range(30)]
    source = picture_set(names)
    for name in names[:14]:
        (source / "images" / f"{name}.png").write_bytes(b"no picture")
    report = check(source, progress=False)
    table = report.table()
    assert table.count("\nerror: ") == 1 and "error: unreadable file (14 files)" in table
    assert "images/a0.png" in table and "and 4 more" in table and "images/a9.png" not in table
    assert table.count("cannot identify image file") == 1
    assert "images/a9.png" in report.table(most=None)


def test_control_characters_in_names_are_shown_by_their_code(picture_set):
    source = picture_set([*"abc", "\x1b[2Jd\n"])
    (source / "masks" / "\x1b[2Jd\n.png").unlink()
    table = check(source, progress=False).table()
    assert r"images/\x1b[2Jd\n.png" in table and "\x1b" not in table


def test_problems_are_errors_then_warnings_then_notes(nnunet, make, tmp_path):
    source = nnunet(labels={"background": 0, "one": 1, "ignore": 2, "three": 3})
    make.nifti(source / "labelsTr" / "s1.nii.gz", np.zeros((3, 16, 12), np.uint8))
    make.nifti(source / "labelsTr" / "s2.nii.gz", make.subject(2).label[:2])
    report = check(source, progress=False)
    assert [problem.severity for problem in report.problems] == ["error", "warning", "note"]
    assert report.table().endswith("1 error, 1 warning")


def test_what_was_read_but_is_not_looked_for_is_not_called_unreadable(tmp_path, make):
    for number in range(3):
        make.h5(tmp_path / f"patient00{number + 1}_frame01.h5", make.subject(number).image, make.subject(number).label)
    with h5py.File(tmp_path / "patient002_frame01.h5", "w") as file:
        file["image"], file["label"] = make.subject(1).image, np.zeros(3, [("a", int), ("b", float)])
    (problem,) = check(tmp_path, progress=False).errors
    assert problem.problem == "unsuitable file" and problem.file.name == "patient002_frame01.h5"


def test_a_label_with_one_type_of_many_values_is_unsuitable(tmp_path, make):
    for number in range(3):
        make.h5(tmp_path / f"patient00{number + 1}_frame01.h5", make.subject(number).image, make.subject(number).label)
    with h5py.File(tmp_path / "patient002_frame01.h5", "w") as file:
        file["image"] = make.subject(1).image
        file["label"] = np.zeros(make.subject(1).label.shape, [("a", int), ("b", float)])
    (problem,) = check(tmp_path, progress=False).errors
    assert problem.problem == "unsuitable file" and "expected plain numbers" in problem.found


def test_a_file_that_ends_its_reader_is_one_bad_case(nnunet, ends_its_reader, tmp_path):
    source = nnunet()
    ends_its_reader("mamba_unet.data.survey", "s1.nii.gz")
    (problem,) = check(source, progress=False).errors
    assert problem.case == "s1" and problem.problem == "unreadable file" and "SIGABRT" in problem.found
    prepared = prepare(source, tmp_path / "out", skip_bad=True, progress=False)
    assert prepared.identifiers == ["s0", "s2", "s3", "s4"]


@pytest.fixture
def broken(nnunet, make):
    """Six errors in five of seven cases; one case has two of them."""
    source = nnunet(count=7)
    path = source / "imagesTr" / "s0_0000.nii.gz"
    path.write_bytes(path.read_bytes()[:100])
    make.nifti(source / "labelsTr" / "s1.nii.gz", make.subject(1).label[:2])
    make.nifti(source / "imagesTr" / "s2_0000.nii.gz", np.full((3, 16, 12), np.nan, np.float32))
    make.nifti(source / "labelsTr" / "s2.nii.gz", make.subject(2).label + 9)
    make.nifti(source / "imagesTr" / "s3_0000.nii.gz", np.zeros((3, 16, 12), np.int16))
    (source / "labelsTr" / "s4.nii.gz").unlink()
    return source


def test_every_problem_is_listed_at_once(broken):
    report = check(broken, progress=False)
    assert sorted((problem.case, problem.problem) for problem in report.errors) == [
        ("s0", "unreadable file"),
        ("s1", "image and label differ in shape"),
        ("s2", "NaN or infinity in the image"),
        ("s2", "label values outside the classes"),
        ("s3", "constant image"),
    ]
    assert report.table().count("\nerror: ") == 5
    assert [(problem.case, problem.problem) for problem in report.warnings] == [("s4", "image without label")]


def test_prepare_refuses_with_the_same_list(broken, tmp_path):
    with pytest.raises(BadDataError, match="5 errors, 1 warning") as error:
        prepare(broken, tmp_path / "out", progress=False)
    assert error.value.report.problems == check(broken, progress=False).problems
    assert not (tmp_path / "out" / "dataset.json").exists()


def test_skip_bad_leaves_the_bad_cases_out_and_names_them(broken, tmp_path):
    prepared = prepare(broken, tmp_path / "out", skip_bad=True, progress=False)
    assert prepared.left_out == ["s0", "s1", "s2", "s3"]
    assert prepared.identifiers == ["s5", "s6", "s4"] and prepared.splits["unlabelled"] == ["s4"]
    assert {name for cases in prepared.splits.values() for name in cases} == {"s4", "s5", "s6"}


def test_skip_bad_does_not_excuse_a_leak_or_an_empty_rest(nnunet, tmp_path):
    source, file = nnunet(count=3), tmp_path / "split.json"
    file.write_text(json.dumps({"train": ["s0", "s1", "s2"], "val": ["s2"]}))
    with pytest.raises(BadDataError, match="one patient in two splits"):
        prepare(source, tmp_path / "out", splits=file, skip_bad=True, progress=False)
    for label in (source / "labelsTr").iterdir():
        label.unlink()
    with pytest.raises(BadDataError, match="too few patients"):
        prepare(source, tmp_path / "out", skip_bad=True, progress=False)


def test_a_label_with_several_values_in_each_voxel_is_refused(nnunet, make, tmp_path):
    """One channel for each class, as ITK writes them: the first alone is the background."""
    source = nnunet()
    one_hot = np.stack([make.subject(1).label == index for index in range(4)], axis=-1).astype(np.uint8)
    image = nib.Nifti1Image(one_hot.transpose(2, 1, 0, 3)[:, :, :, None], make.affine)
    nib.save(image, source / "labelsTr" / "s1.nii.gz")
    (error,) = check(source, progress=False).errors
    assert "s1.nii.gz" in str(error.file) and "4 values in each voxel; expected one" in error.found


def test_an_image_in_0_to_1_is_not_put_through_a_window(nnunet, make):
    source = nnunet(channel_names={"0": "CT"})
    make.nifti(source / "imagesTr" / "s1_0000.nii.gz", make.minmax(make.subject(1).image))
    (error,) = check(source, progress=False).errors
    assert error.problem == "image is scaled already" and "window" in error.expected and error.case == "s1"


def test_segments_in_another_order_are_told_by_their_names(tmp_path, make):
    source, names = tmp_path / "source", ["liver", "tumor", "cyst"]
    (source / "images").mkdir(parents=True)
    (source / "labels").mkdir()
    for seed in range(4):
        subject, header = make.subject(seed), "NRRD0004\ndimension: 3\nsizes: 12 16 3\nencoding: raw\n"
        said = names if seed < 3 else names[::-1]
        segments = "".join(f"Segment{k}_Name:={name}\nSegment{k}_LabelValue:={k + 1}\n" for k, name in enumerate(said))
        image, label = f"{header}type: short\nendian: little\n\n", f"{header}type: uint8\n{segments}\n"
        (source / "images" / f"s{seed}.nrrd").write_bytes(image.encode() + subject.image.astype("<i2").tobytes())
        (source / "labels" / f"s{seed}.seg.nrrd").write_bytes(label.encode() + subject.label.tobytes())
    errors = [one for one in check(source, progress=False).errors if one.problem == "a label value has several names"]
    assert [(one.case, one.found) for one in errors] == [("s3", "value 1 is 'cyst'"), ("s3", "value 3 is 'liver'")]


def test_a_scribble_that_lies_elsewhere_or_twice_is_refused(nnunet, make):
    source = nnunet(labels={"background": 0, "one": 1, "two": 2, "three": 3, "ignore": 9})
    label = make.subject(1).label
    for name, affine in (("s1", make.affine @ np.diag([-1, 1, 1, 1])), ("s2", make.affine)):
        make.nifti(source / "scribblesTr" / f"{name}.nii.gz", np.where(label == 1, label, 9), affine)
    make.nifti(source / "scribblesTr" / "s2.nii", np.full_like(label, 9))
    errors = {error.case: error.problem for error in check(source, progress=False).errors}
    assert errors == {"s1": "image and scribble differ in affine", "s2": "duplicate case"}
