import json

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from mamba_unet.data import check, detect_layout, prepare
from mamba_unet.data.readers import nnunet as reader


def test_second_version(nnunet, tmp_path, make):
    source = nnunet(name="Hearts", dataset="Hearts")
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
        (
            {"labels": {"background": 0, "whole": [1, 2], "core": 2}},
            r"'whole' is the region \[1, 2\].*class of its own",
        ),
        ({"labels": {"background": 0, "one": 1, "ignore": 1}}, "distinct values"),
        ({"labels": {"background": 0, "one": 2**32 - 1}}, "whole number of 0..65535"),
        ({"labels": {"background": 0, "one": {"x": 1}}}, "whole number"),
        ({"labels": {"one": 0, "background": 1, "two": 2}}, r"json: label 'background' = 1; expected 0"),
        ({"labels": {"0": "one", "1": "Background"}}, r"label 'Background' = 1; .*another name"),
        ({"dataset": {"s0": {"images": ["a.nii.gz"], "label": "b.nii.gz"}}}, r"json: \"dataset\" .*link the files"),
        ({"labels": {"0": "background", "1": "one", "2": "one"}}, "two labels are called 'one'"),
        ({"channel_names": {"first": "T1"}}, "numbered from 0"),
        ({"channel_names": {"0": "T1", "2": "T2"}}, "without a gap"),
        ({"channel_names": {"0": {"name": "T1"}}}, "a text for each channel"),
        ({"channel_names": 7}, "channel_names"),
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
    (problem,) = detect_layout(source)[1].problems
    assert (problem.problem, problem.file.name, problem.case) == ("unknown channel", "s0_0001.nii.gz", "s0")


def with_channels(source, make, count, names):
    """The subjects' images again as further channels."""
    described = json.loads((source / "dataset.json").read_text())
    for seed in range(count):
        for channel in range(1, len(names)):
            make.nifti(source / "imagesTr" / f"s{seed}_{channel:04d}.nii.gz", make.subject(10 * channel + seed).image)
    described["channel_names"] = {str(number): name for number, name in enumerate(names)}
    (source / "dataset.json").write_text(json.dumps(described))
    return source


def test_channels_of_a_case_are_brought_together_in_their_order(nnunet, make):
    listing = detect_layout(with_channels(nnunet(count=3), make, 3, ["FLAIR", "T1", "T1ce", "T2"]))[1]
    assert listing.channel_names == ["FLAIR", "T1", "T1ce", "T2"] and listing.intensity is None
    assert [[file.name for (file,) in entry.image] for entry in listing.entries] == [
        [f"s{seed}_{channel:04d}.nii.gz" for channel in range(4)] for seed in range(3)
    ]


def test_a_missing_channel_names_its_file_and_leaves_the_other_cases(nnunet, make):
    source = with_channels(nnunet(), make, 5, ["T1", "T2"])
    (source / "imagesTr" / "s1_0001.nii.gz").unlink()
    listing = detect_layout(source)[1]
    (problem,) = listing.problems
    assert (problem.problem, problem.file.name, problem.case) == ("channel missing", "s1_0001.nii.gz", "s1")
    assert [entry.identifier for entry in listing.entries] == ["s0", "s2", "s3", "s4"]


def test_a_channel_missing_everywhere_is_told_though_its_name_asks_for_another_intensity(nnunet, make):
    source = with_channels(nnunet(), make, 0, ["CT", "PET"])
    (source / "imagesTr" / "s0.json").write_text('{"spacing": [5, 1, 1]}')
    report = check(source, progress=False)
    assert {problem.problem for problem in report.errors} == {"channel missing"}
    assert {problem.file.name for problem in report.errors} == {f"s{seed}_0001.nii.gz" for seed in range(5)}
    assert any("voxel sizes in .json files beside the images are not read" in note for note in report.notes)


@pytest.mark.parametrize(
    ("said", "without", "found"),
    [
        (50, 0, ["5"]),
        (4, 0, ["5"]),
        (5, 0, []),
        ("50", 0, []),
        (True, 0, []),
        (5, 2, []),
        (7, 2, []),
        (8, 2, ["5 with a label and 2 without"]),
    ],
)
def test_another_number_of_training_cases_than_described_is_a_warning(nnunet, make, said, without, found):
    source = nnunet(numTraining=said)
    for folder, seed in (("imagesTr", 8), ("unlabelled", 9))[:without]:
        make.nifti(source / folder / f"s{seed}_0000.nii.gz", make.subject(seed).image)
    for folder, name in (("imagesTs", "t_0000"), ("labelsTs", "t")):  # not for training
        make.nifti(source / folder / f"{name}.nii.gz", make.subject(7).label)
    problems = detect_layout(source)[1].problems
    warnings = [problem for problem in problems if problem.problem == "another number of training cases"]
    assert [(problem.found, problem.severity) for problem in warnings] == [(text, "warning") for text in found]
    assert all(problem.file.name == "dataset.json" for problem in warnings)


def test_folders_without_any_case_are_said_to_be_empty(nnunet):
    source = nnunet(count=0, numTraining=50)
    for folder in ("imagesTr", "labelsTr"):
        (source / folder).mkdir()
    with pytest.raises(ValueError, match="there is no case in it"):
        check(source, progress=False)


def test_a_case_of_links_to_nothing_is_there_all_the_same(nnunet, tmp_path):
    source = nnunet()
    for file in (source / "imagesTr" / "s1_0000.nii.gz", source / "labelsTr" / "s1.nii.gz"):
        file.unlink()
        file.symlink_to(tmp_path / "annex" / "nothing")
    listing = detect_layout(source)[1]
    assert [entry.identifier for entry in listing.entries] == ["s0", "s1", "s2", "s3", "s4"] and not listing.problems


@pytest.mark.parametrize(
    ("names", "methods"),
    [
        (["CT"], "window"),
        (["MRI"], None),
        (["CT", "PET"], ["window", "minmax"]),
        (["R", "G", "B"], "window"),
        (["T1", "T2"], None),
    ],
)
def test_names_of_channels_choose_their_intensities(nnunet, make, names, methods):
    intensity = detect_layout(with_channels(nnunet(count=2), make, 2, names))[1].intensity
    if isinstance(methods, list):
        assert [rule["method"] for rule in intensity] == methods
    else:
        assert (intensity and intensity["method"]) == methods


def test_channel_names_may_be_a_list(nnunet):
    assert detect_layout(nnunet(channel_names=["T1"]))[1].channel_names == ["T1"]


def test_colours_of_a_picture_are_in_one_file(tmp_path, save_picture):
    for seed in range(3):
        save_picture(tmp_path / "imagesTr" / f"s{seed}_0000.png", np.zeros((4, 4, 3), np.uint8))
        save_picture(tmp_path / "labelsTr" / f"s{seed}.png", np.eye(4, dtype=np.uint8))
    described = {"channel_names": {"0": "R", "1": "G", "2": "B"}, "labels": {"background": 0, "road": 1}}
    (tmp_path / "dataset.json").write_text(json.dumps(described))
    listing = detect_layout(tmp_path)[1]
    assert not listing.problems and len(listing.entries) == 3 and len(listing.entries[0].image) == 1
    assert listing.intensity == {"method": "window", "low": 0, "high": 255}


@pytest.mark.parametrize(
    ("names", "problem", "remedy"),
    [
        (["zscore"] * 3, "channel missing", "name its channels R, G, B"),
        (["photo"], "other channels than named", "R, G, B for the colours of a picture"),
    ],
)
def test_colours_under_other_names_are_refused_and_how_to_name_them_is_said(
    tmp_path, save_picture, names, problem, remedy
):
    for seed in range(3):
        save_picture(tmp_path / "imagesTr" / f"s{seed}_0000.png", np.arange(48, dtype=np.uint8).reshape(4, 4, 3) + seed)
        save_picture(tmp_path / "labelsTr" / f"s{seed}.png", np.eye(4, dtype=np.uint8))
    described = {"channel_names": names, "labels": {"background": 0, "road": 1}}
    (tmp_path / "dataset.json").write_text(json.dumps(described))
    errors = [error for error in check(tmp_path, progress=False).errors if error.case]
    assert {error.problem for error in errors} == {problem} and {error.case for error in errors} == {"s0", "s1", "s2"}
    assert all(remedy in error.remedy for error in errors)


def test_pictures_named_in_colours_may_all_be_grey(tmp_path, save_picture):
    for seed in range(3):
        save_picture(tmp_path / "imagesTr" / f"s{seed}_0000.png", np.arange(16, dtype=np.uint8).reshape(4, 4) + seed)
        save_picture(tmp_path / "labelsTr" / f"s{seed}.png", np.eye(4, dtype=np.uint8))
    described = {"channel_names": ["R", "G", "B"], "labels": {"background": 0, "road": 1}}
    (tmp_path / "dataset.json").write_text(json.dumps(described))
    report = check(tmp_path, progress=False)
    assert not report.errors and "grey picture among" in report.warnings[0].problem


def test_the_ignore_label_is_no_class(nnunet, tmp_path):
    source = nnunet(labels={"background": 0, "one": 1, "two": 2, "ignore": 3})
    assert detect_layout(source)[1].ignore == 3
    prepared = prepare(source, tmp_path / "out", progress=False)
    assert prepared.class_names == ["background", "one", "two"]
    assert sorted(np.unique(prepared.case("s0").label)) == [0, 1, 2, 255]


def test_decathlon(tmp_path, make):
    for seed in range(3):
        frames = np.stack([make.subject(seed + 10 * channel).image for channel in range(4)])
        for folder in ("imagesTr", "imagesTs"):
            (tmp_path / folder).mkdir(exist_ok=True)
            affine = np.diag([1.0, 1, 1, 1])
            nib.save(
                nib.Nifti1Image(frames.transpose(3, 2, 1, 0), affine), tmp_path / folder / f"BRATS_00{seed}.nii.gz"
            )
        make.nifti(tmp_path / "labelsTr" / f"BRATS_00{seed}.nii.gz", make.subject(seed).label)
    described = {
        "name": "BRATS",
        "modality": {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"},
        "labels": {"0": "background", "1": "edema", "2": "non-enhancing tumor", "3": "enhancing tumour"},
        "training": [
            {"image": f"./imagesTr/BRATS_00{k}.nii.gz", "label": f"./labelsTr/BRATS_00{k}.nii.gz"} for k in range(3)
        ],
        "test": ["./imagesTs/BRATS_000.nii.gz"],
    }
    (tmp_path / "dataset.json").write_text(json.dumps(described))
    layout, listing = detect_layout(tmp_path)
    assert layout is reader.DECATHLON and listing.frames_are_channels and not listing.problems
    assert listing.channel_names == ["FLAIR", "T1w", "t1gd", "T2w"] and listing.name == "BRATS"
    assert [entry.identifier for entry in listing.entries] == ["BRATS_000", "BRATS_001", "BRATS_002"]
    assert len({entry.patient for entry in listing.entries}) == 3 and "imagesTs is left alone" in listing.notes[0]
    for names, told in (
        (["FLAIR", "T1w"], "4"),
        (["FLAIR", "T1w", "T2w"], "1"),  # not taken for a grey picture
    ):
        described["modality"] = names
        (tmp_path / "dataset.json").write_text(json.dumps(described))
        if told == "1":
            make.nifti(tmp_path / "imagesTr" / "BRATS_001.nii.gz", make.subject(1).image)
        errors = {error.case: error.found for error in check(tmp_path, progress=False).errors}
        assert errors["BRATS_001"] == told and errors["BRATS_002"] == "4"
    described["modality"] = {"0": "MRI"}
    (tmp_path / "dataset.json").write_text(json.dumps(described))
    assert not detect_layout(tmp_path)[1].frames_are_channels


def test_the_lists_of_nnunets_first_version_do_not_make_it_decathlons(nnunet):
    listed = [{"image": f"./imagesTr/s{k}.nii.gz", "label": f"./labelsTr/s{k}.nii.gz"} for k in range(5)]
    assert detect_layout(nnunet(training=listed))[0] is reader.NNUNET


def test_images_without_the_number_of_a_channel_are_an_error(nnunet, make):
    source = nnunet()
    make.nifti(source / "imagesTr" / "s9.nii.gz", make.subject(0).image)
    with pytest.raises(ValueError, match=r"s9\.nii\.gz: expected CASE_0000\.nii\.gz"):
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
    assert (errors[0].problem, errors[0].found) == ("one patient in two splits", "p in train and test")


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


def test_a_damaged_list_of_origins_says_what_to_do(nnunet):
    source = nnunet()
    for text, message in (("{", "damaged, no JSON"), ('{"s0": {"patient": 1}}', "expected patient and image")):
        (source / "origins.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            detect_layout(source)
