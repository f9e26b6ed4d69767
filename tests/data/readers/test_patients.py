import pytest

from mamba_unet.data import check
from mamba_unet.data.readers.patients import (
    describe_patients,
    doubtful_beginnings,
    group_patients,
    match_patients,
)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (["P00_0", "P00_1"], ["P01_0", "P01_1"]),
        (["P00-img-0", "P00-img-1"], ["P01-img-0"]),
        (["P00_left", "P00_right"], ["P01_left"]),
        (["P00_z000", "P00_z001"], ["P01_z000"]),
        (["P00_left_001", "P00_right_001"], ["P01_left_001", "P01_left_002"]),
        (["P00 (1)", "P00 (2)"], ["P01 (1)"]),
        (["P00", "P00_2"], ["P01"]),
        (["case_00_1", "case_00_2"], ["case_01_1"]),
        (["anna_left", "anna_right"], ["ben_left"]),
        (["anna_slice_3", "anna_slice_4"], ["ben_slice_3"]),
        (["Image_01L", "Image_01R"], ["Image_02L", "Image_02R"]),
        (["patient001_frame01", "patient001_frame12"], ["patient002_frame01"]),
        (["patient0001_2CH_ED", "patient0001_4CH_ES"], ["patient0002_2CH_ED"]),
        (["pat01_a", "pat01_b"], ["pat02_a"]),
        (["01A", "01B"], ["02A"]),
        (["P00_day1", "P00_day14"], ["P01_day1"]),
        (["P00_roi1", "P00_roi2"], ["P01_roi1"]),
        (["anna_pre", "anna_post"], ["ben_pre"]),
        (["P00_baseline", "P00_follow-up2"], ["P01_baseline"]),
        (["TCGA_CS_4941_19960909_1", "TCGA_CS_4941_19960909_2"], ["TCGA_CS_4942_19970222_1"]),
    ],
)
def test_names_with_the_same_beginning_are_of_one_patient(one, other):
    patients = group_patients([*one, *other])
    assert len({patients[name] for name in one}) == 1 and len({patients[name] for name in other}) == 1
    assert patients[one[0]] != patients[other[0]]


@pytest.mark.parametrize(
    "names",
    [
        ["ISIC_0000000", "ISIC_0000001"],
        ["image_001", "image_002", "image_003"],
        ["case_01", "case_02"],
        ["img_1", "img_2"],
        ["BRATS20_001", "BRATS20_002"],
        ["BraTS20_Training_001", "BraTS20_Training_002", "BraTS20_Validation_001"],
        ["benign (1)", "benign (2)", "malignant (1)"],
        ["train_0", "train_1", "val_0"],
        ["cju0qkwl35piu0993l0dewei2", "cju0qoxqj9q6s0835b43399p4"],
        ["1.3.6.1.4.1.14519.5.2.1.1", "1.3.6.1.4.1.14519.5.2.1.2", "1.2.840.1"],
    ],
)
def test_what_all_names_share_or_what_only_counts_is_no_patient(names):
    assert len(set(group_patients(names).values())) == len(names)


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (("_rest", "_stress"), "pat00_rest, pat00_stress"),
        (("_CT_001", "_CT_002"), "pat00_CT_001, pat00_CT_002"),
        (("_run-1", "_run-2"), "pat00_run-1, pat00_run-2"),
        (("slice001", "slice002"), "pat00slice001, pat00slice002"),
        (("_axial_034_x", "_axial_035_x"), "pat00_axial_034_x, pat00_axial_035_x"),
    ],
)
def test_names_that_begin_alike_and_go_on_with_an_unknown_word_are_warned_of(picture_set, words, shown):
    source = picture_set([f"pat{patient:02}{word}" for patient in range(3) for word in words])
    (warning,) = check(source, progress=False).warnings
    assert f"{shown}, are taken for different patients" in warning.found
    regex = warning.remedy.split("'")[1]
    assert "6 cases of 3 patients" in check(source, patient_regex=regex, progress=False).table()
    assert not check(source, patient_regex=regex, progress=False).warnings


@pytest.mark.parametrize("names", [["P1_x", "P2_x", "P3_x"], ["a1_x", "a1_y", "b", "c", "d"], ["image_x", "image_y"]])
def test_names_that_seldom_begin_alike_are_not_warned_of(names):
    assert doubtful_beginnings({name: name for name in names}) == ({}, "")


def test_a_regular_expression_finds_the_patient():
    names = ["scan-A7-1", "scan-A7-2", "scan-B2-1"]
    assert match_patients(names, r"-([A-Z]\d)-") == {"scan-A7-1": "A7", "scan-A7-2": "A7", "scan-B2-1": "B2"}
    assert match_patients(names, r"[A-Z]\d")["scan-B2-1"] == "B2"


def test_a_name_that_the_expression_does_not_match_is_named():
    with pytest.raises(ValueError, match="finds no patient in other"):
        match_patients(["P1_0", "other"], r"^P\d")
    with pytest.raises(ValueError, match="not a regular expression"):
        match_patients(["P1_0"], "(")


def test_the_description_counts_and_shows_the_largest_group():
    patients = {"a": "p", "b": "p", "c": "q"}
    assert describe_patients(patients, "by x") == "3 cases of 2 patients by x, as p: a, b"
    assert "2 cases, each a patient of its own" in describe_patients({"a": "a", "b": "b"}, "by x")


def test_the_report_says_how_cases_are_grouped_and_a_regular_expression_changes_it(picture_set):
    source = picture_set([f"P{patient:02}_{number}" for patient in range(4) for number in range(3)])
    assert "12 cases of 4 patients" in check(source, progress=False).table()
    assert "12 cases of 3 patients by --patient-regex" in check(source, patient_regex=r"\d$", progress=False).table()
    with pytest.raises(ValueError, match="finds no patient in P00_0, P00_1, P00_2, P01_0, P01_1 and 4 more"):
        check(source, patient_regex="P03", progress=False)
