import numpy as np
import pytest

from mamba_unet.data import detect_layout, prepare
from mamba_unet.data.readers import acdc


@pytest.fixture
def challenge(tmp_path, make):
    """Two training patients and one of the official test set, as the challenge ships them."""
    source = tmp_path / "ACDC"
    for seed, (part, patient, end_systole) in enumerate(
        [("training", "patient001", 12), ("training", "patient002", 9), ("testing", "patient101", 14)]
    ):
        folder = source / part / patient
        for frame in (1, end_systole):
            subject = make.subject(10 * seed + frame)
            make.nifti(folder / f"{patient}_frame{frame:02d}.nii.gz", subject.image)
            make.nifti(folder / f"{patient}_frame{frame:02d}_gt.nii.gz", subject.label)
        make.nifti(folder / f"{patient}_4d.nii.gz", np.zeros((2, 2, 2), np.int16))
        (folder / "Info.cfg").write_text(f"ED: 1\nES: {end_systole}\nGroup: DCM\nHeight: 184.0\nNbFrame: 30\n")
        (folder / "._Info.cfg").write_text("macOS")
    return source


def test_challenge_layout_lists_both_frames_and_leaves_the_cine_alone(challenge):
    layout, listing = detect_layout(challenge)
    assert layout is acdc.NIFTI and listing.dataset == "acdc" and not listing.problems
    assert [entry.identifier for entry in listing.entries] == [
        "patient001_frame01",
        "patient001_frame12",
        "patient002_frame01",
        "patient002_frame09",
        "patient101_frame01",
        "patient101_frame14",
    ]
    assert [entry.patient for entry in listing.entries[:3]] == ["patient001", "patient001", "patient002"]
    assert listing.entries[0].label[0].name == "patient001_frame01_gt.nii.gz"
    assert "3 *_4d files" in listing.notes[0]


@pytest.mark.parametrize("inside", ["training", "testing"])
def test_a_part_alone_is_recognised(challenge, inside):
    layout, listing = detect_layout(challenge / inside)
    assert layout is acdc.NIFTI and len(listing.entries) == {"training": 4, "testing": 2}[inside]


def test_official_test_patients_are_kept_apart(challenge, tmp_path, make):
    prepared = prepare(challenge, tmp_path / "out", progress=False)
    assert prepared.splits == {
        "train": [],
        "val": ["patient002_frame01", "patient002_frame09"],
        "test": ["patient001_frame01", "patient001_frame12"],
        "official_test": ["patient101_frame01", "patient101_frame14"],
    }
    assert "official_test" in (tmp_path / "out" / "check.txt").read_text()
    assert prepared.class_names[1:] == ["right ventricle", "myocardium", "left ventricle"]
    case, subject = prepared.case("patient001_frame12"), make.subject(12)
    assert np.array_equal(case.image[0], make.minmax(subject.image))
    assert np.array_equal(case.label, subject.label)
    assert case.spacing_mm == (9.0, 1.4, 1.5) and case.orientation == "SPL" and case.patient == "patient001"


def test_a_frame_that_info_cfg_names_and_nobody_has_is_a_problem(challenge):
    for file in (challenge / "training" / "patient002").glob("*frame09*"):
        file.unlink()
    (problem,) = detect_layout(challenge)[1].problems
    assert problem.problem == "frame missing" and problem.case == "patient002_frame09"


def hdf5(make, folder, cases=("patient001_frame01", "patient001_frame12", "patient002_frame01")):
    for seed, case in enumerate(cases):
        subject = make.subject(seed)
        make.h5(folder / f"{case}.h5", make.minmax(subject.image), subject.label)


@pytest.mark.parametrize("folder", [".", "data", "ACDC_training_volumes"])
def test_hdf5_volumes(tmp_path, make, folder):
    hdf5(make, tmp_path / "src" / folder)
    layout, listing = detect_layout(tmp_path / "src")
    assert layout is acdc.HDF5 and [entry.patient for entry in listing.entries] == ["patient001"] * 2 + ["patient002"]
    prepared = prepare(tmp_path / "src", tmp_path / "out", progress=False)
    case = prepared.case("patient002_frame01")
    assert np.array_equal(case.image[0], make.minmax(make.subject(2).image))
    assert case.spacing_mm is None and case.orientation is None and case.affine is None


@pytest.mark.parametrize("folder", ["data/slices", "ACDC_training_slices"])
def test_slices_alone_are_joined_in_numerical_order(tmp_path, make, folder):
    subject = make.subject(0, shape=(11, 6, 5))
    for number, (image, label) in enumerate(zip(make.minmax(subject.image), subject.label, strict=True), start=1):
        make.h5(tmp_path / "src" / folder / f"patient003_frame01_slice_{number}.h5", image, label)
    prepared = prepare(tmp_path / "src", tmp_path / "out", progress=False)
    assert np.array_equal(prepared.case("patient003_frame01").label, subject.label)


def test_volumes_are_preferred_to_slices(tmp_path, make):
    hdf5(make, tmp_path / "data")
    make.h5(tmp_path / "data" / "slices" / "patient001_frame01_slice_1.h5", np.zeros((2, 2)), np.zeros((2, 2)))
    assert all(len(entry.image) == 1 for entry in detect_layout(tmp_path)[1].entries)


def test_a_missing_slice_is_a_problem(tmp_path, make):
    for number in (1, 2, 4):
        make.h5(tmp_path / "slices" / f"patient003_frame01_slice_{number}.h5", np.zeros((2, 2)), np.zeros((2, 2)))
    (problem,) = detect_layout(tmp_path)[1].problems
    assert problem.problem == "slice missing" and problem.found == "no slice 3"


def test_lists_beside_the_files_are_the_split(tmp_path, make):
    hdf5(make, tmp_path / "data", ("patient001_frame01", "patient002_frame01", "patient003_frame01"))
    (tmp_path / "train_slices.list").write_text("patient003_frame02_slice_1\npatient003_frame02_slice_2\n")
    (tmp_path / "val.list").write_text("patient001_frame01\npatient001_frame02\n")
    (tmp_path / "test.list").write_text("patient002_frame01\n")
    prepared = prepare(tmp_path, tmp_path / "out", progress=False)
    assert {name: cases[0][:10] for name, cases in prepared.splits.items()} == {
        "train": "patient003",
        "val": "patient001",
        "test": "patient002",
    }


def test_real_volumes_are_recognised_with_the_published_split(acdc_dir):
    layout, listing = detect_layout(acdc_dir)
    assert layout is acdc.HDF5 and len(listing.entries) == 200 and not listing.problems
    assert len({entry.patient for entry in listing.entries}) == 100
