import json

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from mamba_unet.data import check, prepare, write_phantom
from mamba_unet.data.phantom import LABELS


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    return write_phantom(tmp_path_factory.mktemp("phantom") / "raw", cases=4)


def test_it_is_sound_nnunet_raw_that_says_it_is_synthetic(phantom, tmp_path):
    assert not check(phantom, progress=False).problems
    assert "synthetic" in json.loads((phantom / "dataset.json").read_text())["description"]
    prepared = prepare(phantom, tmp_path / "out", progress=False)
    assert prepared.class_names == list(LABELS) and "synthetic" in prepared.description
    assert prepared.orientation == "SPL"


def test_geometry_is_in_the_promised_ranges(phantom):
    shapes = set()
    for file in (phantom / "imagesTr").iterdir():
        image = nib.load(file)
        width, height, depth = image.shape
        shapes.add(image.shape)
        assert 6 <= depth <= 10 and 96 <= height <= 112 and 96 <= width <= 112
        x, y, z = image.header.get_zooms()
        assert x == y and 1.4 <= x <= 1.61 and 8 <= z <= 10
    assert len(shapes) > 1


def test_anatomy(phantom):
    for file in sorted((phantom / "labelsTr").iterdir()):
        label = np.asarray(nib.load(file).dataobj).transpose(2, 1, 0)
        for plane in label:
            cavity, muscle, right = plane == 3, plane == 2, plane == 1
            assert ndimage.label(cavity)[1] == 1 and ndimage.label(muscle)[1] == 1
            # the wall closes around the cavity: no pixel of it touches anything else
            assert set(np.unique(plane[ndimage.binary_dilation(cavity)])) == {2, 3}
            if right.any():
                assert (ndimage.binary_dilation(right) & muscle).any()
                assert right.nonzero()[1].mean() < cavity.nonzero()[1].mean()  # on the picture's left
        areas = (label == 3).sum(axis=(1, 2))
        assert areas[-1] < areas[0] and (label[-1] == 1).sum() < (label[0] == 1).sum()


def test_blood_is_bright_and_muscle_dark(phantom):
    for number in range(1, 5):
        image = np.asarray(nib.load(phantom / "imagesTr" / f"phantom_{number:03d}_0000.nii.gz").dataobj)
        label = np.asarray(nib.load(phantom / "labelsTr" / f"phantom_{number:03d}.nii.gz").dataobj)
        means = [image[label == index].mean() for index in range(4)]
        assert means[3] > 1.7 * means[2] and means[1] > 1.7 * means[2]
        # and brightness alone does not tell the classes
        threshold = (means[3] + means[2]) / 2
        assert (image[label == 0] > threshold).sum() > 0.5 * (label == 3).sum()


def test_the_seed_decides(phantom, tmp_path):
    again, other = write_phantom(tmp_path / "a", cases=1), write_phantom(tmp_path / "b", cases=1, seed=1)
    name = "imagesTr/phantom_001_0000.nii.gz"
    first, second, third = (nib.load(folder / name).get_fdata() for folder in (phantom, again, other))
    assert np.array_equal(first, second)
    assert first.shape != third.shape or not np.array_equal(first, third)


def test_no_cases_or_no_seed_is_an_error(tmp_path):
    for words in ({"cases": 0}, {"seed": -1}):
        with pytest.raises(ValueError, match="expected at least 1 case, and a seed from 0 on"):
            write_phantom(tmp_path, **words)


def test_phantoms_of_before_do_not_stay(tmp_path):
    write_phantom(tmp_path, cases=3)
    write_phantom(tmp_path, cases=1, seed=1)
    assert [path.name for path in (tmp_path / "imagesTr").iterdir()] == ["phantom_001_0000.nii.gz"]
    assert [path.name for path in (tmp_path / "labelsTr").iterdir()] == ["phantom_001.nii.gz"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("dataset.json", '{"name": "Task04_Hippocampus"}'),
        ("dataset.json", "damaged"),
        ("imagesTr/patient001_0000.nii.gz", "an image"),
        ("labels/phantom_001.npy", "a label of prepared data"),
    ],
)
def test_other_data_are_not_overwritten(name, content, tmp_path):
    before = write_phantom(tmp_path, cases=1) / "imagesTr" / "phantom_001_0000.nii.gz"
    other, image = tmp_path / name, before.read_bytes()
    other.parent.mkdir(exist_ok=True)
    other.write_text(content)
    with pytest.raises(ValueError, match="holds other files; give a new or empty folder"):
        write_phantom(tmp_path, cases=1, seed=1)
    assert other.read_text() == content and before.read_bytes() == image
