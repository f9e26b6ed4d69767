"""Predictions made elsewhere count like ours."""

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from mamba_unet.data import PreparedDataset, prepare, write_phantom
from mamba_unet.evaluation.predictions import evaluate_predictions, find_predictions, picture_values, read_prediction
from mamba_unet.volumes.formats import UnreadableError


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> PreparedDataset:
    folder = tmp_path_factory.mktemp("phantom")
    write_phantom(folder / "raw", cases=6, seed=0)
    return prepare(folder / "raw", folder / "data", progress=False)


@pytest.fixture
def case(prepared):
    return prepared.case(prepared.identifiers[0])


def save_nifti(path, label, affine):
    nib.save(nib.Nifti1Image(label.transpose(2, 1, 0), affine), path)


def test_every_format_gives_the_array_that_was_written(case, tmp_path):
    label = np.array(case.label)
    save_nifti(tmp_path / "a.nii.gz", label, case.affine)
    save_nifti(tmp_path / "b.nii", label.astype(np.float32), case.affine)
    np.savez(tmp_path / "c.npz", label=label)
    np.save(tmp_path / "d.npy", label)
    for path in sorted(tmp_path.iterdir()):
        prediction = read_prediction(path, case)
        assert prediction.dtype == np.uint8 and np.array_equal(prediction, label), path.name


def test_a_picture_or_a_flat_array_is_one_slice(case, tmp_path):
    flat = type(case)("x", "x", case.image[:, :1], case.label[:1], None, None, None, case.sources)
    Image.fromarray(np.array(flat.label[0])).save(tmp_path / "x.png")
    np.save(tmp_path / "x.npy", flat.label[0])
    for path in tmp_path.iterdir():
        assert np.array_equal(read_prediction(path, flat), flat.label)


def test_a_picture_may_hold_the_values_of_the_masks(case, tmp_path):
    flat = type(case)("x", "x", case.image[:, :1], case.label[:1], None, None, None, case.sources)
    values = [0, 80, 160, 255]
    file = tmp_path / "x.png"
    Image.fromarray(np.array(values, np.uint8)[flat.label[0]]).save(file)
    assert np.array_equal(read_prediction(file, flat, picture_values([file], values)), flat.label)


@pytest.mark.parametrize(
    ("values", "pictures", "expected"),
    [
        pytest.param((0, 2, 3), ([0, 2], [0, 2, 3]), (0, 2, 3), id="values, of which one picture shows few"),
        pytest.param((0, 2, 3), ([0, 2], [0, 1]), (), id="indices, of which one picture shows few"),
        pytest.param((0, 2, 3), ([0], [0]), (), id="empty ones"),
        pytest.param((0, 1, 2, 4), ([0, 1], [0, 2]), (), id="the same in either reading"),
        pytest.param((0, 1, 2), ([0, 1], [0, 2]), (), id="values that are indices"),
        pytest.param((0, 2, 3), ([0, 2], [0, 2]), None, id="nothing tells"),
    ],
)
def test_what_pictures_hold_is_told_by_all_of_them(tmp_path, values, pictures, expected):
    files = [tmp_path / f"{number}.png" for number in range(len(pictures))]
    for file, shown in zip(files, pictures, strict=True):
        Image.fromarray(np.array([shown], np.uint8)).save(file)
    if expected is None:
        with pytest.raises(ValueError, match=r"the values 0, 2 of the pictures may be class indices, or .* 0, 2, 3"):
            picture_values(files, values)
    else:
        assert picture_values(files, values) == expected


def test_predictions_that_do_not_fit_are_refused_with_what_to_do(case, tmp_path):
    label = np.array(case.label)
    np.save(tmp_path / "cut.npy", label[1:])
    np.save(tmp_path / "soft.npy", label * 0.5)
    (tmp_path / "broken.npy").write_bytes(b"no array")
    save_nifti(tmp_path / "moved.nii.gz", label, case.affine + np.eye(4)[:, [3, 3, 3, 0]] * 5)
    for name, message in (
        ("cut.npy", "expected .* that of phantom_001"),
        ("soft.npy", "class indices"),
        ("broken.npy", "broken.npy"),
        ("moved.nii.gz", "voxels from the image"),
    ):
        with pytest.raises(UnreadableError, match=message):
            read_prediction(tmp_path / name, case)


def test_a_prediction_that_ends_its_reader_is_named(prepared, tmp_path, ends_its_reader):
    (name, *_) = prepared.splits["test"]
    for each in prepared.splits["test"]:
        np.save(tmp_path / f"{each}.npy", prepared.case(each).label)
    ends_its_reader("mamba_unet.evaluation.predictions", f"{name}.npy")
    with pytest.raises(UnreadableError, match=rf"{name}\.npy: reading it ended the process"):
        evaluate_predictions(tmp_path, prepared, "test")


def test_the_labels_themselves_score_one_and_missing_cases_are_listed(prepared, tmp_path):
    names = prepared.splits["train"]
    for name in names:
        np.save(tmp_path / f"{name}.npy", prepared.case(name).label)
        np.savez(tmp_path / f"{name}.npz", probabilities=0)  # nnU-Net's, for its ensembles
    evaluation = evaluate_predictions(tmp_path, prepared, "train", tmp_path / "out")
    assert evaluation.mean_foreground_dice == 1 and list(evaluation.cases) == names
    assert (tmp_path / "out" / "summary.json").is_file()
    with pytest.raises(ValueError, match=f"out holds an evaluation of other cases .{names[0]}"):
        evaluate_predictions(tmp_path, prepared, "test", tmp_path / "out")
    for name in names[:2]:
        (tmp_path / f"{name}.npy").unlink()
        (tmp_path / f"{name}.npz").unlink()
    with pytest.raises(ValueError, match=f"no prediction for 2 of {len(names)} cases: {names[0]}, {names[1]};"):
        evaluate_predictions(tmp_path, prepared, "train")
    np.save(tmp_path / f"{names[2]}.npy", 0)
    np.savez(tmp_path / f"{names[2]}.npz", label=0)
    with pytest.raises(ValueError, match="several predictions of one case"):
        find_predictions(tmp_path, names[2:])
    with pytest.raises(ValueError, match="expected a folder"):
        find_predictions(tmp_path / "absent", names)
