import json

import numpy as np
import pytest
from PIL import Image

from mamba_unet.data import check, prepare
from mamba_unet.data.classes import Classes, collect, distinct
from mamba_unet.views.labels import IGNORE

TWELVE = [f"a{number}" for number in range(12)]


@pytest.mark.parametrize(
    "values", [(0, 1), (0, 255), (0, 128, 255), (0, 85, 170, 255), range(16), (0, 1, 2, 4), (0, 1, 1, 1)]
)
def test_plainly_few_values_are_classes(picture_set, tmp_path, values):
    prepared = prepare(picture_set(TWELVE, values), tmp_path / "out", progress=False)
    assert prepared.label_values == sorted(set(values))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([*range(8), *range(248, 256)], "1, 2, 3, 4, 5 beside 255 may be grey levels"),
        (range(17), "more than 16 values"),
        ((0, 254, 255), "254 beside 255"),
        ((0, 1, 255), "255 may mark what to ignore"),
        ((0, 127, 128, 255), "127, 128 beside 255"),
        ((0,), "all 12 masks hold 0 alone"),
    ],
)
def test_what_may_be_grey_levels_is_refused_with_what_to_do(picture_set, values, message):
    with pytest.raises(ValueError, match=message) as error:
        check(picture_set(TWELVE, values), progress=False)
    if len(values) > 1:
        assert "in 12 masks: 0 (in 12)" in str(error.value) and "masks/a0.png" in str(error.value)
        assert all(word in str(error.value) for word in ("--binary-masks", "--class-names", "--ignore-label"))


def test_masks_that_hold_no_common_value_are_refused(picture_set):
    instances = {name: (0, 20 * number + 20) for number, name in enumerate(TWELVE)}
    with pytest.raises(ValueError, match="no value is a whole number that several masks hold"):
        check(picture_set(TWELVE, odd=instances), progress=False)


def test_a_stray_value_names_its_file_and_is_no_class(picture_set):
    report = check(picture_set(TWELVE, odd={"a7": (0, 37, 255)}), progress=False)
    assert report.class_names == ["background", "label 255"]
    (problem,) = report.problems
    assert (problem.case, problem.found, problem.expected) == ("a7", "37", "only 0, 255")


def test_binary_masks_make_one_class_of_grey_levels(picture_set, tmp_path):
    source = picture_set(TWELVE, [*range(8), *range(248, 256)])
    prepared = prepare(source, tmp_path / "out", binary_masks=True, class_names=["polyp"], progress=False)
    assert prepared.class_names == ["background", "polyp"] and prepared.label_values == [0, 255]
    stored = np.asarray(Image.open(source / "masks" / "a3.png"))
    assert np.array_equal(prepared.case("a3").label[0], stored >= 128)
    assert "values from 128 on are 'polyp'" in (tmp_path / "out" / "check.txt").read_text()


def test_another_threshold_and_one_that_no_mask_reaches(picture_set, tmp_path):
    source = picture_set(TWELVE, (0, 100, 200))
    prepared = prepare(source, tmp_path / "out", binary_masks=150, progress=False)
    assert prepared.case("a0").label.sum() == 24
    again = prepare(source, tmp_path / "out", binary_masks=50, progress=False)
    assert again.case("a0").label.sum() == 48  # another threshold does every case again
    with pytest.raises(ValueError, match="threshold above 0 that some mask reaches"):
        check(source, binary_masks=201, progress=False)


def test_binary_masks_with_several_classes_are_refused(picture_set):
    source = picture_set(TWELVE)
    with pytest.raises(ValueError, match="makes one class, but 2 are named"):
        check(source, binary_masks=True, class_names=["a", "b"], progress=False)


@pytest.mark.parametrize("names", [["polyp"], ["background", "polyp"]])
def test_names_are_given_to_the_values_in_their_order(picture_set, names):
    assert check(picture_set(TWELVE), class_names=names, progress=False).class_names == ["background", "polyp"]


def test_names_declare_values_that_would_not_plainly_be_classes(picture_set, tmp_path):
    source = picture_set(TWELVE, (0, 1, 255), odd={"a3": (0, 1, 7, 255)})
    prepared = prepare(source, tmp_path / "out", class_names=["a", "b", "c"], progress=False)
    assert prepared.label_values == [0, 1, 7, 255]


def test_a_named_class_that_no_mask_shows_is_a_warning(picture_set):
    report = check(picture_set(TWELVE, (0, 1, 2)), class_names=["a", "b", "c"], progress=False)
    (problem,) = report.warnings
    assert (problem.problem, problem.found) == ("classes that no label shows", "c")


@pytest.mark.parametrize(
    ("values", "names", "message"),
    [
        ((0, 1, 254, 255), ["polyp"], "names 1 class.*3 values besides 0(.|\n)*--binary-masks"),
        ((0, 100), ["a", "b"], "names 2 classes.*1 value besides 0(.|\n)*dataset.json"),
        ((0, 1, 2), ["a", "a"], "expected distinct names"),
        ((0, 1), [], "expected distinct names"),
    ],
)
def test_names_that_do_not_fit_are_refused(picture_set, values, names, message):
    with pytest.raises(ValueError, match=message):
        check(picture_set(TWELVE, values), class_names=names, progress=False)


@pytest.mark.parametrize("how", [{"class_names": ["polyp"]}, {"binary_masks": True}, {}])
def test_where_no_mask_can_be_read_each_case_says_so(picture_set, how):
    source = picture_set(TWELVE)
    for mask in (source / "masks").iterdir():
        mask.write_bytes(b"no picture")
    errors = check(source, progress=False, **how).errors
    assert len(errors) == 12 and {problem.problem for problem in errors} == {"unreadable file"}


def test_one_name_that_is_not_in_a_list_is_refused(picture_set):
    with pytest.raises(ValueError, match=r"expected a list of names: \['polyp'\]"):
        check(picture_set(TWELVE), class_names="polyp", progress=False)


def test_names_rename_what_a_dataset_json_declares(picture_set, nnunet):
    report = check(nnunet(), class_names=["a", "b", "c"], progress=False)
    assert report.class_names == ["background", "a", "b", "c"]
    with pytest.raises(ValueError, match="expected 3, as the data describes: one, two, three"):
        check(nnunet(), class_names=["a"], progress=False)


def test_a_known_data_set_keeps_its_classes(nnunet):
    with pytest.raises(ValueError, match="acdc has its classes"):
        check(nnunet(), dataset="acdc", class_names=["a", "b", "c"], progress=False)


def test_ignored_values_become_ignore_and_are_counted(picture_set, tmp_path):
    source = picture_set(TWELVE, (0, 1, 255))
    prepared = prepare(source, tmp_path / "out", ignore_label=255, progress=False)
    assert prepared.class_names == ["background", "label 1"]
    assert sorted(np.unique(prepared.case("a0").label)) == [0, 1, IGNORE]
    (note,) = check(source, ignore_label=255, progress=False).problems
    assert note.severity == "note" and note.found == "288 voxels in 12 labels, 33 % of all"
    assert check(source, ignore_label=255, progress=False).table().endswith("0 errors, 0 warnings")


def test_an_ignored_value_is_no_class(picture_set):
    source = picture_set(TWELVE)
    (source / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "polyp": 255}}))
    with pytest.raises(ValueError, match="this value is class 'polyp'"):
        check(source, ignore_label=255, progress=False)


def test_binary_masks_keep_ignored_values():
    classes = Classes(["background", "a"], {0: 0, 200: 1, 255: IGNORE}, threshold=128)
    array, _ = classes.stored(np.array([3, 127, 128, 200, 255]))
    assert classes.index(array).tolist() == [0, 0, 1, 1, IGNORE]


def test_more_than_254_classes_are_refused(nnunet):
    labels = {"background": 0} | {f"c{number}": number for number in range(1, 301)}
    with pytest.raises(ValueError, match="300 classes; expected at most 254"):
        check(nnunet(labels=labels), progress=False)
    with pytest.raises(ValueError, match="300 classes"):
        check(nnunet(labels={"background": 0} | {f"c{n}": n for n in range(1, 301)}), progress=False)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.uint64, np.float32, bool])
def test_distinct_values_of_any_type(dtype):
    assert distinct(np.array([[1, 0], [1, 1]], dtype)) == [0, 1]


def test_values_that_are_nearly_whole_are_whole():
    found = collect([("a", np.array([0, 1.00000006, np.nan, np.inf])), ("b", np.array([1 - 1e-7, 0.5]))])
    assert sorted(value for value in found.values if value == value) == [0, 0.5, 1, np.inf]
    assert found.values[1] == ["a", "b"]


def test_a_mask_that_is_an_image_is_not_kept_whole():
    assert len(collect([("a", np.arange(10**5, dtype=np.float32))]).values) == 300


@pytest.mark.parametrize("dtype", [np.uint64, np.uint32])
def test_minus_one_without_a_sign_names_its_file(tmp_path, make, dtype):
    for number in range(5):
        subject = make.subject(number, classes=2)
        label = subject.label.astype(dtype)
        if number == 3:
            label[0, 0, 0] = np.iinfo(dtype).max
        make.nifti(tmp_path / "images" / f"s{number}.nii.gz", subject.image)
        make.nifti(tmp_path / "labels" / f"s{number}.nii.gz", label)
    (problem,) = check(tmp_path, progress=False).errors
    assert problem.file.name == "s3.nii.gz" and problem.problem == "label values outside the classes"


def test_jpeg_masks_are_refused_and_the_remedy_works(shared_case, tmp_path):
    source = shared_case("jpeg_masks")
    with pytest.raises(ValueError, match="grey levels"):
        check(source, progress=False)
    prepared = prepare(source, tmp_path / "out", binary_masks=True, progress=False)
    assert prepared.label_values == [0, 255] and prepared.case("p0").label.sum() > 400


def test_palette_masks_are_their_indices(shared_case, tmp_path):
    prepared = prepare(shared_case("palette_masks") / "set", tmp_path / "out", progress=False)
    assert prepared.label_values == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("name", "values"), [("binary255", [0, 255]), ("mmwhs", [0, 205, 420, 500]), ("gap", [0, 1, 3])]
)
def test_values_with_gaps(shared_case, tmp_path, make, name, values):
    case = shared_case("label_255") / f"{name}.nii.gz"
    for number in range(3):
        make.nifti(tmp_path / "set" / "images" / f"s{number}.nii.gz", make.subject(number, (6, 16, 20)).image, LPS)
        (tmp_path / "set" / "labels").mkdir(exist_ok=True)
        (tmp_path / "set" / "labels" / f"s{number}.nii.gz").write_bytes(case.read_bytes())
    assert prepare(tmp_path / "set", tmp_path / "out", progress=False).label_values == values


@pytest.mark.parametrize("name", ["slope", "noisy"])
def test_labels_that_are_nearly_whole_are_rounded_with_a_note(shared_case, tmp_path, make, name):
    case = shared_case("label_nearly_whole") / f"{name}.nii"
    for number in range(3):
        make.nifti(tmp_path / "set" / "images" / f"s{number}.nii", make.subject(number, (6, 16, 20)).image, LPS)
        (tmp_path / "set" / "labels").mkdir(exist_ok=True)
        (tmp_path / "set" / "labels" / f"s{number}.nii").write_bytes(case.read_bytes())
    prepared = prepare(tmp_path / "set", tmp_path / "out", progress=False)
    assert prepared.label_values == [0, 1, 2, 3]
    assert sorted(np.unique(prepared.case("s0").label)) == [0, 1, 2, 3]
    text = (tmp_path / "out" / "check.txt").read_text()
    assert "note: label values are nearly whole (3 files)" in text


LPS = np.array([[-1.5, 0, 0, 20], [0, -1.5, 0, 30], [0, 0, 8, -40], [0, 0, 0, 1]], float)


def test_grey_pictures_among_pictures_in_colours_are_named(picture_set):
    source = picture_set(TWELVE)
    for name in TWELVE[:10]:
        Image.merge("RGB", [Image.effect_noise((9, 8), 50) for _ in range(3)]).save(source / "images" / f"{name}.png")
    report = check(source, progress=False)
    assert [warning.case for warning in report.warnings] == ["a10", "a11"] and not report.errors
    assert "a grey picture among pictures in colours" in report.table()
