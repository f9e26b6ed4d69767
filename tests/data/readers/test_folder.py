import json
from pathlib import Path

import numpy as np
import pytest

from mamba_unet.data import BadDataError, check, detect_layout, prepare
from mamba_unet.data.readers import folder as reader


@pytest.fixture
def tree(tmp_path):
    """Empty files, for what follows from names alone."""

    def write(*names: str) -> Path:
        for name in names:
            (tmp_path / "src" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "src" / name).touch()
        return tmp_path / "src"

    return write


@pytest.fixture
def pictures(tmp_path, save_picture):
    """Five pictures with masks of 0 and 255, named by `image` and `mask` (formats of a number)."""

    def write(image: str, mask: str, values=(0, 255)):
        rng = np.random.default_rng(0)
        for number in range(5):
            save_picture(tmp_path / "src" / image.format(number), rng.integers(0, 256, (9, 7), dtype=np.uint8))
            labels = np.array(values, np.uint8)[rng.integers(0, len(values), (9, 7))]
            save_picture(tmp_path / "src" / mask.format(number), labels)
        return tmp_path / "src"

    return write


ISIC = "ISIC2018_Task1-2_Training_Input", "ISIC2018_Task1_Training_GroundTruth"


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("images/a{}.png", "masks/a{}.png"),
        ("image/a{}.png", "mask/a{}.png"),
        ("Images/A{}.JPG", "Masks/a{}.png"),
        ("images/a{}.jpg", "labels/a{}.png"),
        ("images/a{}.png", "masks/a{}_mask.png"),
        ("images/a{}.png", "masks/mask_a{}.png"),
        ("images/image_a{}.png", "masks/mask_a{}.png"),
        ("images/a{}.nii.gz", "labels/a{}-label.nrrd"),
        ("a{}.png", "a{}_mask.png"),
        ("a{}.png", "a{}_seg.png"),
        ("a{}.png", "a{}_gt.png"),
        ("a{}.png", "masks/a{}.png"),
        ("train/images/a{}.png", "train/labels/a{}.png"),
        ("train/a{}.jpg", "train_masks/a{}_mask.gif"),
        ("Kvasir-SEG/images/cju{}.jpg", "Kvasir-SEG/masks/cju{}.jpg"),
        ("PNG/Original/{}.png", "PNG/Ground Truth/{}.png"),
        (f"{ISIC[0]}/ISIC_000000{{}}.jpg", f"{ISIC[1]}/ISIC_000000{{}}_segmentation.png"),
        ("ISIC-2017_Training_Data/ISIC_{}.jpg", "ISIC-2017_Training_Part1_GroundTruth/ISIC_{}_segmentation.png"),
        ("training/images/2{}_training.tif", "training/1st_manual/2{}_manual1.gif"),
        ("patient{}/image.png", "patient{}/mask.png"),
        ("images/p{}/photo.png", "masks/p{}/photo.png"),
    ],
)
def test_names_are_paired_and_every_case_is_its_own(tree, image, mask):
    source = tree(*(name.format(number) for number in range(5) for name in (image, mask)))
    layout, listing = detect_layout(source)
    assert layout is reader.FOLDER and not listing.problems
    pairs = {(entry.image, entry.label) for entry in listing.entries}
    assert pairs == {(((source / image.format(k),),), (source / mask.format(k),)) for k in range(5)}
    assert (
        len({entry.identifier for entry in listing.entries}) == len({entry.patient for entry in listing.entries}) == 5
    )


def test_folders_of_a_split_become_the_split(tree):
    source = tree(
        *(f"{split}/{kind}/{split}{k}.png" for split in ("train", "valid", "test") for kind in ("images", "masks")
          for k in range(3))
    )  # fmt: skip
    splits = detect_layout(source)[1].splits
    assert splits == {name: [f"{word}{k}" for k in range(3)] for name, word in SPLITS}
    again = tree(*(f"../other/{kind}/{split}/{k}.png" for split in ("train", "val") for kind in ("images", "labels")
                   for k in range(3)))  # fmt: skip
    assert set(detect_layout(again.parent / "other")[1].splits) == {"train", "val"}


@pytest.mark.parametrize("held", [("test",), ("val", "test"), ("val",)])
def test_images_beside_a_folder_that_is_held_out_are_for_training(tree, held):
    source = tree(*(f"{kind}/{name}.png" for kind in ("images", "masks") for name in "ab"),
                  *(f"{split}/{kind}/{split}{k}.png" for split in held for kind in ("images", "masks")
                    for k in range(2)))  # fmt: skip
    listing = detect_layout(source)[1]
    assert {name: sorted(cases) for name, cases in listing.splits.items()} == {"train": ["a", "b"]} | {
        split: [f"{split}0", f"{split}1"] for split in held
    }


SPLITS = [("test", "test"), ("train", "train"), ("val", "valid")]


def test_equal_numbers_in_two_splits_are_different_patients(tree):
    source = tree(*(f"{split}/{kind}/{k}.png" for split in ("train", "val") for kind in ("images", "masks")
                    for k in range(3)))  # fmt: skip
    listing = detect_layout(source)[1]
    assert [entry.patient for entry in listing.entries] == ["train_0", "train_1", "train_2", "val_0", "val_1", "val_2"]


def test_a_patient_in_two_folders_of_the_split_is_an_error(tmp_path, save_picture):
    for split, names in (("train", ("P1_0", "P2_0", "P3_0")), ("val", ("P1_1", "P4_0"))):
        for number, name in enumerate(names):
            picture = np.random.default_rng([number, len(split)]).integers(0, 9, (5, 5), dtype=np.uint8)
            save_picture(tmp_path / split / "images" / f"{name}.png", picture)
            save_picture(tmp_path / split / "masks" / f"{name}.png", picture % 2)
    (problem,) = check(tmp_path, progress=False).errors
    assert (problem.problem, problem.found) == ("one patient in two splits", "P1 in train and val")


def test_one_name_in_two_splits_does_not_hide_that_patients_are_in_both(tree):
    images = ("train/images/P01_1", "train/images/P02_1", "test/images/P01_2", "test/images/P02_1", "test/images/P03_1")
    source = tree(*(f"{name}.png" for image in images for name in (image, image.replace("images", "masks"))))
    (problem,) = detect_layout(source)[1].problems
    assert problem.severity == "warning" and problem.problem == "patients of one name in several splits"
    assert problem.found.startswith("P01, P02, taken for different patients") and "--patient-regex" in problem.remedy


def test_test_images_without_masks_are_left_alone_and_said(tree):
    source = tree("train/images/a.png", "train/masks/a.png", "test/images/b.png")
    listing = detect_layout(source)[1]
    assert len(listing.entries) == 1 and listing.splits is None
    assert listing.notes == ["left alone, no masks to them: test/images, 1 file"]


def test_superpixels_fields_of_view_and_second_observers_are_left_alone(tree):
    isic = tree("Training_Input/ISIC_1.jpg", "Training_Input/ISIC_1_superpixels.png", "Training_GroundTruth/ISIC_1.png")
    listing = detect_layout(isic)[1]
    assert len(listing.entries) == 1 and "superpixels" in listing.notes[0]


def test_the_labels_of_drive_are_its_vessels(tree):
    source = tree(
        "training/images/21_training.tif",
        "training/1st_manual/21_manual1.gif",
        "training/mask/21_training_mask.gif",
        "test/images/01_test.tif",
        "test/mask/01_test_mask.gif",
        "test/2nd_manual/01_manual2.gif",
    )
    listing = detect_layout(source)[1]
    assert [entry.label[0].name for entry in listing.entries] == ["21_manual1.gif"] and not listing.problems
    assert any("test/mask" in note for note in listing.notes) and any("2nd_manual" in note for note in listing.notes)


def test_of_the_same_pictures_in_two_formats_one_is_taken(tree):
    source = tree(*(f"{end}/{kind}/1.{end.lower()}" for end in ("PNG", "TIF") for kind in ("Original", "Ground Truth")))
    listing = detect_layout(source)[1]
    assert [entry.image[0][0].name for entry in listing.entries] == ["1.png"] and "same pictures" in listing.notes[0]


def test_a_folder_per_patient_holds_several_images(tree):
    source = tree(*(f"p{p}/{k}{end}.png" for p in range(3) for k in range(2) for end in ("", "_mask")))
    entries = detect_layout(source)[1].entries
    assert [(entry.identifier, entry.patient) for entry in entries[:3]] == [
        ("p0_0", "p0"),
        ("p0_1", "p0"),
        ("p1_0", "p1"),
    ]


def test_folders_of_classes_are_no_patients(tree):
    source = tree(*(f"{c}/{c} ({k}){end}.png" for c in ("benign", "normal") for k in range(3) for end in ("", "_mask")))
    assert len({entry.patient for entry in detect_layout(source)[1].entries}) == 6


MODALITIES = [
    ("images/{}/a{}.nii.gz", "labels/a{}.nii.gz"),
    ("{}/a{}.nii.gz", "labels/a{}.nii.gz"),
    ("a{1}/a{1}_{0}.nii.gz", "a{}/a{}_seg.nii.gz"),
    ("images/a{1}_{0}.nii.gz", "labels/a{}.nii.gz"),
]


@pytest.mark.parametrize(("image", "label"), MODALITIES)
def test_channels_of_a_case_are_brought_together(tree, image, label):
    source = tree(
        *(image.format(m, k) for k in range(3) for m in ("t1", "flair")), *(label.format(k, k) for k in range(3))
    )
    listing = detect_layout(source)[1]
    assert listing.channel_names == ["flair", "t1"] and not listing.problems
    assert [entry.identifier for entry in listing.entries] == ["a0", "a1", "a2"]
    assert listing.entries[1].image == tuple((source / image.format(m, 1),) for m in ("flair", "t1"))


@pytest.mark.parametrize(("image", "label"), MODALITIES)
def test_a_missing_channel_names_its_file(tree, image, label):
    source = tree(
        *(image.format(m, k) for k in range(3) for m in ("t1", "flair")), *(label.format(k, k) for k in range(3))
    )
    (source / image.format("t1", 1)).unlink()
    listing = detect_layout(source)[1]
    (problem,) = listing.problems
    assert (problem.problem, problem.case) == ("channel missing", "a1")
    assert problem.file == source / image.format("t1", 1)
    assert [entry.identifier for entry in listing.entries] == ["a0", "a2"]


def test_a_description_orders_the_channels_and_tells_their_intensities(tree):
    source = tree(
        *(f"images/{m}/a{k}.nii" for k in range(2) for m in ("pet", "ct")), *(f"labels/a{k}.nii" for k in range(2))
    )
    assert detect_layout(source)[1].intensity[0]["method"] == "window"
    described = {"channel_names": {"0": "PET", "1": "CT"}, "labels": {"background": 0, "tumour": 1, "ignore": 2}}
    (source / "dataset.json").write_text(json.dumps(described))
    listing = detect_layout(source)[1]
    assert (
        listing.channel_names == ["pet", "ct"]
        and listing.ignore == 2
        and listing.labels == {"background": 0, "tumour": 1}
    )
    assert [rule["method"] for rule in listing.intensity] == ["minmax", "window"]


def test_missing_partners_and_doubled_names_are_problems(tree):
    source = tree("images/a.png", "images/b.png", "images/b.jpg", "masks/b.png", "masks/c_mask.png", "readme.png")
    listing = detect_layout(source)[1]
    assert sorted((problem.problem, problem.file.name) for problem in listing.problems) == [
        ("duplicate case", "b.png"),
        ("image without label", "a.png"),
        ("label without image", "c_mask.png"),
    ]
    assert "readme" not in str(listing.entries) and "left alone" in listing.notes[0]


def test_hidden_files_and_what_macos_adds_are_passed_over(tree):
    source = tree("images/a.png", "images/._a.png", "masks/a.png", "__MACOSX/images/a.png", ".git/masks/b.png")
    assert len(detect_layout(source)[1].entries) == 1


@pytest.mark.parametrize("name", ["case", "upper"])
def test_upper_and_lower_case_are_the_same(shared_case, name):
    report = check(shared_case("names_differ_by_case") / name, progress=False)
    assert len(report.cases) == 4 and not report.problems


def test_characters_are_compared_as_they_look(tree):
    """macOS writes "\u00f6" as an "o" and two dots, and not in every folder."""
    source = tree("images/J\u00f6rg.png", "masks/Jo\u0308rg.png", "images/b.png", "masks/b.png")
    _, listing = detect_layout(source)
    assert not listing.problems and [entry.identifier for entry in listing.entries] == ["J\u00f6rg", "b"]


def test_links_to_nothing_are_told_and_not_passed_over(pictures, tmp_path):
    """As git-annex leaves them for what was not fetched; of both files of a case, it would be gone without a word."""
    source = pictures("images/a{}.png", "masks/a{}.png")
    prepare(source, tmp_path / "before", progress=False)
    for name in ("images/a1.png", "masks/a1.png", "masks/a3.png"):
        (source / name).unlink()
        (source / name).symlink_to(tmp_path / "annex" / "nothing")
    report = check(source, progress=False)
    assert {str(problem.file.relative_to(source)) for problem in report.errors} == {
        "images/a1.png", "masks/a1.png", "masks/a3.png"
    }  # fmt: skip
    assert all("a link to a file that is not there" in problem.found for problem in report.errors)
    with pytest.raises(BadDataError, match="a link to a file that is not there"):
        prepare(source, tmp_path / "before", progress=False)


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


def test_slices_of_a_patient_are_grouped(tmp_path, save_picture):
    for number in range(6):  # patients 0, 1, 2 with two slices each
        array = np.random.default_rng(number).integers(0, 2, (5, 5), dtype=np.uint8)
        for folder in ("images", "masks"):
            save_picture(tmp_path / "src" / folder / f"p{number // 2}_slice_{number % 2}.png", array)
    prepared = prepare(tmp_path / "src", tmp_path / "out", progress=False)
    assert prepared.patients == {f"p{k}": [f"p{k}_slice_0", f"p{k}_slice_1"] for k in range(3)}
    assert all(len(identifiers) == 2 for identifiers in prepared.splits.values())
