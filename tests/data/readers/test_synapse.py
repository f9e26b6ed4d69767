import numpy as np
import pytest

from mamba_unet.data import check, detect_layout, prepare
from mamba_unet.data.readers import synapse

# raw value -> class in TransUNet's order: aorta, gallbladder, left and right kidney, liver, pancreas, spleen, stomach
CLASS_OF = {0: 0, 1: 7, 2: 4, 3: 3, 4: 2, 5: 0, 6: 5, 7: 8, 8: 1, 9: 0, 10: 0, 11: 6, 12: 0, 13: 0}
NUMBERS = (1, 2, 5, 7)  # test, test, train, val


@pytest.fixture
def subjects(make):
    drawn = {}
    for number in NUMBERS:
        subject = make.subject(number, shape=(4, 12, 10), classes=14)
        subject.image = (subject.image.astype(np.int16) - 300).clip(-300, 700)
        drawn[number] = subject
    return drawn


@pytest.fixture
def raw(tmp_path, make, subjects):
    for number, subject in subjects.items():
        make.nifti(tmp_path / "raw" / "img" / f"img{number:04d}.nii.gz", subject.image)
        make.nifti(tmp_path / "raw" / "label" / f"label{number:04d}.nii.gz", subject.label)
    return tmp_path / "raw"


def prepared_arrays(subject):
    image = (np.clip(subject.image.astype(np.float32), -125, 275) + np.float32(125)) / np.float32(400)
    return image, np.vectorize(CLASS_OF.get)(subject.label).astype(np.uint8)


@pytest.fixture
def transunet(tmp_path, make, subjects):
    source = tmp_path / "transunet" / "Synapse"
    (source / "train_npz").mkdir(parents=True)
    for number, subject in subjects.items():
        image, label = prepared_arrays(subject)
        if number in (1, 2):
            make.h5(source / "test_vol_h5" / f"case{number:04d}.npy.h5", image, label.astype(np.float32))
        else:
            for index in range(len(image)):
                file = source / "train_npz" / f"case{number:04d}_slice{index:03d}.npz"
                np.savez(file, image=image[index], label=label[index].astype(np.float32))
    return tmp_path / "transunet"


def test_raw_download_gives_nine_classes_and_the_window(raw, subjects, tmp_path):
    assert detect_layout(raw)[0] is synapse.RAW
    prepared = prepare(raw, tmp_path / "out", progress=False)
    assert prepared.class_names == [
        "background", "aorta", "gallbladder", "left kidney", "right kidney", "liver", "pancreas", "spleen", "stomach",
    ]  # fmt: skip
    assert prepared.label_values == [0, 8, 4, 3, 2, 6, 11, 1, 7]
    assert prepared.intensity == ({"method": "window", "low": -125.0, "high": 275.0},)
    for number, subject in subjects.items():
        case = prepared.case(f"case{number:04d}")
        image, label = prepared_arrays(subject)
        assert np.array_equal(case.image[0], image) and np.array_equal(case.label, label)
        assert case.spacing_mm == (9.0, 1.4, 1.5)


def test_split_takes_validation_out_of_the_eighteen(raw, tmp_path):
    splits = prepare(raw, tmp_path / "out", progress=False).splits
    assert splits == {"train": ["case0005"], "val": ["case0007"], "test": ["case0001", "case0002"]}


def test_both_layouts_give_the_same_prepared_data(raw, transunet, tmp_path):
    assert detect_layout(transunet)[0] is synapse.TRANSUNET
    a, b = (prepare(source, tmp_path / f"out-{source.name}", progress=False) for source in (raw, transunet))
    for identifier in a.identifiers:
        assert np.array_equal(a.case(identifier).image, b.case(identifier).image)
        assert np.array_equal(a.case(identifier).label, b.case(identifier).label)
    assert a.fingerprint == b.fingerprint and a.splits == b.splits
    assert b.intensity == a.intensity  # what prediction has to do to raw CT


def test_transunet_files_that_are_not_scaled_or_hold_13_organs_are_errors(transunet, make, subjects):
    make.h5(
        transunet / "Synapse" / "test_vol_h5" / "case0001.npy.h5",
        subjects[1].image.astype(np.float32),
        subjects[1].label,
    )
    errors = {problem.problem for problem in check(transunet, progress=False).errors}
    assert errors == {"image is not scaled", "label values outside the classes"}


def test_the_download_is_found_below_rawdata(raw, tmp_path):
    (tmp_path / "all" / "RawData").mkdir(parents=True)
    raw.rename(tmp_path / "all" / "RawData" / "Training")
    layout, listing = detect_layout(tmp_path / "all")
    assert layout is synapse.RAW and len(listing.entries) == 4


def test_an_image_without_label_is_a_problem(raw):
    (raw / "label" / "label0005.nii.gz").unlink()
    (problem,) = detect_layout(raw)[1].problems
    assert problem.problem == "image without label" and problem.case == "case0005"


def test_a_real_ct_in_the_raw_layout(ct_dir, tmp_path, make):
    import nibabel as nib

    organs = nib.load(ct_dir / "organs.nii.gz")
    raw_value = np.array([0, 8, 4, 3, 2, 6, 11, 1, 7])[np.asarray(organs.dataobj)].astype(np.uint8)
    for number in NUMBERS:
        image = np.roll(np.asarray(nib.load(ct_dir / "ct.nii.gz").dataobj), number, axis=0)
        label = np.roll(raw_value, number, axis=0)
        make.nifti(tmp_path / "raw" / "img" / f"img{number:04d}.nii.gz", image.transpose(2, 1, 0), organs.affine)
        make.nifti(tmp_path / "raw" / "label" / f"label{number:04d}.nii.gz", label.transpose(2, 1, 0), organs.affine)
    prepared = prepare(tmp_path / "raw", tmp_path / "out", progress=False)
    expected = np.roll(np.asarray(organs.dataobj), 5, axis=0).transpose(2, 1, 0)
    case = prepared.case("case0005")
    assert np.array_equal(case.label, expected)
    assert case.orientation == "SAR" and case.spacing_mm == (3.0, 3.0, 3.0)
    assert case.image.min() == 0 and case.image.max() == 1
