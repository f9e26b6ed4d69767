import json

import numpy as np
import pytest
from PIL import Image

from mamba_unet.data import check, detect_layout, prepare
from mamba_unet.data.readers import folder as reader


@pytest.fixture
def pictures(tmp_path):
    """Five pictures with masks of 0 and 255, named by `image` and `mask` (formats of a number)."""

    def write(image: str, mask: str, values=(0, 255)):
        rng = np.random.default_rng(0)
        for number in range(5):
            for name, array in (
                (image, rng.integers(0, 256, (9, 7), dtype=np.uint8)),
                (mask, np.array(values, np.uint8)[rng.integers(0, len(values), (9, 7))]),
            ):
                file = tmp_path / "src" / name.format(number)
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(file)
        return tmp_path / "src"

    return write


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("images/a{}.png", "masks/a{}.png"),
        ("images/a{}.jpg", "labels/a{}.png"),
        ("images/a{}.png", "masks/a{}_mask.png"),
        ("a{}.png", "a{}_mask.png"),
        ("a{}.png", "a{}_seg.png"),
        ("a{}.png", "a{}_gt.png"),
    ],
)
def test_names_are_paired(pictures, image, mask):
    layout, listing = detect_layout(pictures(image, mask))
    assert layout is reader.FOLDER and not listing.problems
    assert [entry.identifier for entry in listing.entries] == [f"a{number}" for number in range(5)]
    assert all(entry.image != entry.label for entry in listing.entries)


def test_nifti_pairs(tmp_path, make):
    for seed in range(4):
        make.nifti(tmp_path / "images" / f"p{seed}.nii.gz", make.subject(seed).image)
        make.nifti(tmp_path / "labels" / f"p{seed}.nii.gz", make.subject(seed).label)
    prepared = prepare(tmp_path, tmp_path / "out", progress=False)
    assert np.array_equal(prepared.case("p2").label, make.subject(2).label)
    assert prepared.case("p2").spacing_mm == (9.0, 1.4, 1.5)


def test_values_found_are_the_classes(pictures, tmp_path):
    prepared = prepare(pictures("images/{}.png", "masks/{}.png"), tmp_path / "out", progress=False)
    assert prepared.class_names == ["background", "label 255"] and prepared.label_values == [0, 255]
    assert set(np.unique(prepared.case("0").label)) == {0, 1}


def test_a_description_names_the_classes_and_exposes_strays(pictures, tmp_path):
    source = pictures("images/{}.png", "masks/{}.png", values=(0, 128, 255))
    (source / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "cup": 128, "disc": 255}}))
    assert prepare(source, tmp_path / "out", progress=False).class_names == ["background", "cup", "disc"]
    (source / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "disc": 255}}))
    errors = check(source, progress=False).errors
    assert len(errors) == 5 and {problem.found for problem in errors} == {"128"}


def test_grey_masks_are_refused(pictures):
    with pytest.raises(ValueError, match="grey levels"):
        check(pictures("images/{}.png", "masks/{}.png", values=range(0, 200, 2)), progress=False)


def test_slices_of_a_patient_are_grouped(tmp_path):
    source = tmp_path / "src"
    for folder in ("images", "masks"):
        (source / folder).mkdir(parents=True)
        for number in range(6):  # patients 0, 1, 2 with two slices each
            array = np.random.default_rng(number).integers(0, 2, (5, 5), dtype=np.uint8)
            Image.fromarray(array).save(source / folder / f"p{number // 2}_slice_{number % 2}.png")
    prepared = prepare(source, tmp_path / "out", progress=False)
    assert prepared.patients == {f"p{k}": [f"p{k}_slice_0", f"p{k}_slice_1"] for k in range(3)}
    assert all(len(identifiers) == 2 for identifiers in prepared.splits.values())
