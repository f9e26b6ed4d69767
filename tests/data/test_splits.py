import json
from dataclasses import replace
from itertools import chain

import pytest

from mamba_unet.data.registry import DATASETS
from mamba_unet.data.splits import (
    Split,
    SplitError,
    check_leaks,
    choose_split,
    draw_folds,
    draw_split,
    fit_split,
    shipped_split,
    shuffled,
    split_name,
    user_split,
)

PATIENTS = [f"p{k:02d}" for k in range(20)]
CASES = {f"{patient}_frame{frame}": patient for patient in PATIENTS for frame in (1, 2)}


def test_shipped_splits_are_the_published_ones(data_dir):
    acdc = json.loads((data_dir / "acdc" / "splits.json").read_text())
    assert shipped_split("acdc.json") == acdc
    synapse, ours = json.loads((data_dir / "synapse" / "splits.json").read_text()), shipped_split("synapse.json")
    assert ours["test"] == synapse["test"]
    assert sorted(ours["train"] + ours["val"]) == sorted(synapse["train"])


def test_synapse_validation_is_the_first_four_of_the_eighteen_by_the_stated_rule():
    ours = shipped_split("synapse.json")
    assert ours["val"] == sorted(shuffled(ours["train"] + ours["val"], seed=0)[:4])


@pytest.mark.parametrize("name", DATASETS)
def test_shipped_splits_have_no_leak(name):
    split = shipped_split(DATASETS[name].split_file)
    check_leaks(split, name)
    assert list(split) == ["train", "val", "test"]
    assert [len(members) for members in split.values()] == {"acdc": [70, 10, 20], "synapse": [14, 4, 12]}[name]


def test_drawn_split_is_70_10_20_and_depends_on_the_seed_alone():
    split = draw_split(PATIENTS)
    assert {name: len(members) for name, members in split.patients.items()} == {"train": 14, "val": 2, "test": 4}
    assert sorted(chain(*split.patients.values())) == PATIENTS
    assert draw_split(reversed(PATIENTS)) == split
    assert draw_split(PATIENTS, seed=1) != split
    assert draw_split(PATIENTS, seed=0) == split and shuffled(PATIENTS) == shuffled(PATIENTS, 0)
    assert draw_folds(PATIENTS, 4) == draw_folds(PATIENTS, 4, 0) != draw_folds(PATIENTS, 4, 1)
    assert choose_split(CASES, None) == split


@pytest.mark.parametrize(
    ("count", "given", "sizes"),
    [
        (4, 0, [2, 1, 1]),
        (14, 0, [10, 1, 3]),
        (15, 0, [10, 2, 3]),  # 1.5 is rounded to the even number
        (25, 0, [18, 2, 5]),
        (36, 0, [25, 4, 7]),
        (3, 1, [1, 1, 1]),
        (13, 1, [10, 2, 1]),
        (22, 2, [18, 2, 2]),
        (31, 1, [26, 4, 1]),
    ],
)
def test_sizes_are_rounded_and_none_is_empty(count, given, sizes):
    patients = [f"q{k:02d}" for k in range(count)]
    split = draw_split(patients, test=patients[:given])
    assert [len(members) for members in split.patients.values()] == sizes
    assert split.origin.startswith("test as given; train and val drawn" if given else "drawn by patient, 70/10/20")
    assert not given or split.patients["test"] == patients[:given]


def test_one_patient_beside_the_test_is_too_few():
    with pytest.raises(SplitError, match="too few patients: a, b"):
        draw_split("ab", test="b")


def test_a_person_reads_the_sizes_of_the_split_without_those_of_the_folds():
    split = Split("drawn", {"train": ["a", "b"], "val": ["c"], "fold0/train": ["a", "c"]}, ["a note"])
    assert split.describe() == ["split, in patients: train 2, val 1 (drawn)", "a note"]


def test_two_patients_are_apart_only_within_one_fold():
    split = Split("drawn", {"train": ["a"], "val": ["b"], "fold0/test": ["a"], "fold1/val": ["b"], "fold1/test": ["a"]})
    assert split.apart("a", "b") == [("train", "val"), ("fold1/test", "fold1/val")]
    assert split.apart("b", "a") == [("val", "train"), ("fold1/val", "fold1/test")]
    assert split.apart("a", "a") == []


def test_splits_of_folds_have_names_of_their_own():
    assert (split_name("val", None), split_name("val", 0)) == ("val", "fold0/val")


@pytest.mark.parametrize(
    ("count", "said"), [(6, "x0, x1, x2, x3, x4, x5"), (7, "x0, x1, x2, x3, x4, x5, ... (7 in all)")]
)
def test_of_many_names_six_are_told(count, said):
    (note,) = fit_split({"train": ["p00", *(f"x{k}" for k in range(count))]}, ["p00"], "published", "rest").notes
    assert note.endswith(f": {said}")


def test_three_patients_are_one_each_and_two_are_too_few():
    assert [len(members) for members in draw_split("abc").patients.values()] == [1, 1, 1]
    with pytest.raises(SplitError, match=r"too few patients: a, b.*give a split file"):
        draw_split("ab")


def test_folds_test_every_patient_once_and_never_leak():
    folds = draw_folds(PATIENTS, 5)
    assert list(folds)[:3] == ["fold0/train", "fold0/val", "fold0/test"] and len(folds) == 15
    check_leaks(folds, "folds")
    assert sorted(chain(*(folds[f"fold{k}/test"] for k in range(5)))) == PATIENTS
    for k in range(5):
        assert sorted(chain(*(folds[f"fold{k}/{part}"] for part in ("train", "val", "test")))) == PATIENTS
        assert folds[f"fold{k}/val"] == folds[f"fold{(k + 1) % 5}/test"]


@pytest.mark.parametrize("folds", [1, 2, 21])
def test_impossible_numbers_of_folds(folds):
    with pytest.raises(SplitError, match=r"Expected: 3\.\.20"):
        draw_folds(PATIENTS, folds)
    assert [len(members) for name, members in draw_folds(PATIENTS, 20).items() if "test" in name] == [1] * 20


def test_duplicates_stay_together():
    duplicates = {"p03": "p01", "p07": "p01"}
    for patients in (
        draw_split(PATIENTS, 4, duplicates).patients,
        draw_split(PATIENTS, 4, duplicates, test=["p01", "p02"]).patients,
    ):
        (home,) = {name for name, members in patients.items() if "p01" in members}
        assert {"p03", "p07"} <= set(patients[home])
        assert sorted(chain(*patients.values())) == PATIENTS
    folds = draw_folds(PATIENTS, 6, 0, duplicates)
    homes = {patient: [name for name, members in folds.items() if patient in members] for patient in PATIENTS}
    assert homes["p01"] == homes["p03"] == homes["p07"]
    assert all(len(names) == 6 for names in homes.values())


def test_a_duplicate_of_a_patient_outside_the_folds_is_divided_like_any_other():
    folds = draw_folds(PATIENTS, 5, 0, {"p03": "elsewhere"})
    assert sum("p03" in members for members in folds.values()) == 5


def test_published_split_on_a_part_of_the_data_says_what_is_absent():
    split = fit_split({"train": ["p00", "p01", "x"], "test": ["p02"]}, PATIENTS[:4], "published", "unassigned")
    assert split.patients == {"train": ["p00", "p01"], "test": ["p02"], "unassigned": ["p03"]}
    assert split.notes[0].startswith("1 of the 4 patients of the split are not in the data: x")
    assert "put in 'unassigned': p03" in split.notes[1]


def write(tmp_path, content):
    (tmp_path / "mine.json").write_text(json.dumps(content))
    return tmp_path / "mine.json"


def test_users_split_takes_patients_and_cases(tmp_path):
    rest = PATIENTS[2:]
    split = user_split(write(tmp_path, {"a": ["p00"], "b": ["p01_frame1", "p01_frame2"], "c": rest}), CASES)
    assert split.patients == {"a": ["p00"], "b": ["p01"], "c": rest}


def test_users_split_takes_what_prepare_wrote(tmp_path):
    content = {"origin": "x", "patients": {"train": PATIENTS}, "cases": {"train": list(CASES)}}
    assert user_split(write(tmp_path, content), CASES).patients == {"train": PATIENTS}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"train": PATIENTS, "val": PATIENTS[9:3:-1]}, "; ".join(f"p0{k} in train and val" for k in range(4, 10))),
        ({"train": [*PATIENTS[1:], "p00_frame1"], "val": ["p00_frame2"]}, "p00 in train and val"),
        ({"train": [*PATIENTS, "nobody", "p99"]}, "unknown names: nobody, p99"),
        ({"train": PATIENTS[:18]}, "patients in no split: p18, p19"),
        (["p00"], "no split"),
        ([{"train": PATIENTS[2:], "val": PATIENTS[:2]}] * 5, r"nnU-Net's folds.* list of 5 .*write one fold so"),
        ({"train": "p00"}, "no split"),
        ({"train": {"val": ["p00"]}}, "no split"),
        ({"train": [["p00"], ["p01"]]}, "no split"),
        ({"train": [1, 2]}, "no split"),
        ({"train": [*PATIENTS, 3]}, "no split"),
        ({"train": PATIENTS, "val": 3}, "no split"),
    ],
)
def test_users_errors_name_the_patients(tmp_path, content, message):
    with pytest.raises(SplitError, match=message):
        user_split(write(tmp_path, content), CASES)


WITHOUT = {"u2_a": "u2", "u1_a": "u1", "u4_a": "u4", "u3_a": "u3", "p00_frame3": "p00"}  # p00 has labels besides


def test_images_without_labels_need_not_be_in_the_users_split_and_only_serve_training(tmp_path):
    for more in ([], ["u1", "u2_a", "p00_frame3"]):
        file = write(tmp_path, {"train": [*PATIENTS[:18], *more], "val": PATIENTS[18:], "unlabelled": ["u3"]})
        assert user_split(file, CASES, WITHOUT).patients == {
            "train": PATIENTS[:18],
            "val": PATIENTS[18:],
            "unlabelled": [],
        }
        patients = choose_split(CASES, None, unlabelled=WITHOUT, file=file).patients
        assert patients == {"train": PATIENTS[:18], "val": PATIENTS[18:], "unlabelled": ["u1", "u2", "u3", "u4"]}
    for name in ("val", "test"):
        for wrong, shown in ((["u4", "u1", "u3", "u2"], "u1, u2, u3, u4"), (["p00_frame3"], "p00_frame3")):
            file = write(tmp_path, {"train": PATIENTS, name: wrong})
            with pytest.raises(SplitError, match=rf"no label to measure in '{name}': {shown}\. "):
                user_split(file, CASES, WITHOUT)


def test_patients_without_any_label_are_a_split_of_their_own():
    drawn = draw_split(PATIENTS)
    assert choose_split(CASES, None, unlabelled=WITHOUT).patients == {
        **drawn.patients,
        "unlabelled": ["u1", "u2", "u3", "u4"],
    }
    assert choose_split(CASES, None, unlabelled={"p00_frame3": "p00"}) == drawn


def test_users_file_that_is_not_json(tmp_path):
    (tmp_path / "mine.json").write_text("train: p00")
    with pytest.raises(SplitError, match=r"unreadable.*Expected: JSON"):
        user_split(tmp_path / "mine.json", CASES)


def test_patients_put_aside_take_no_part_in_folds():
    cases = {f"patient{k:03d}_frame01": f"patient{k:03d}" for k in (1, 2, 3, 4, 5, 101, 102)}
    split = choose_split(cases, DATASETS["acdc"], folds=3)
    assert split.patients["official_test"] == ["patient101", "patient102"]
    assert not any("patient101" in members for name, members in split.patients.items() if name.startswith("fold"))


def test_a_folder_with_training_and_test_patients_has_validation_drawn_from_training():
    own = {"train": list(CASES)[:24], "test": list(CASES)[24:]}  # cases, two of each patient
    split = choose_split(CASES, None, own=own)
    assert split.patients["test"] == PATIENTS[12:]
    assert (
        sorted([*split.patients["train"], *split.patients["val"]]) == PATIENTS[:12] and len(split.patients["val"]) == 2
    )


def test_a_folder_with_training_and_validation_patients_has_these():
    split = choose_split(CASES, None, own={"train": PATIENTS[:15], "val": PATIENTS[15:]})
    assert split.patients == {"train": PATIENTS[:15], "val": PATIENTS[15:]}


def test_a_folder_that_names_validation_and_test_patients_trains_on_the_others():
    split = choose_split(CASES, None, own={"val": PATIENTS[:2], "test": PATIENTS[2:4]})
    assert split.patients["train"] == PATIENTS[4:]


def test_a_patient_in_two_folders_of_the_split_is_named():
    with pytest.raises(SplitError, match="p03 in train and test"):
        choose_split(CASES, None, own={"train": PATIENTS, "test": ["p03_frame1"]})


def test_a_folder_that_lists_validation_patients_alone_gets_the_published_split():
    cases = {f"patient{number:03d}_frame01": f"patient{number:03d}" for number in (1, 2, 71, 81)}
    split = choose_split(cases, DATASETS["acdc"], own={"val": ["patient001"]})
    assert split == choose_split(cases, DATASETS["acdc"])


def test_the_users_file_goes_before_all_else_and_may_have_folds(tmp_path):
    file = write(tmp_path, {"b": PATIENTS[:3], "a": PATIENTS[3:]})
    split = choose_split(CASES, DATASETS["acdc"], own={"train": PATIENTS}, file=file, folds=4)
    assert split.patients["b"] == PATIENTS[:3] and len(split.patients) == 2 + 12
    assert split.origin == "given: mine.json; 4 folds by patient, seed 0"


def test_a_known_data_set_without_a_published_split_gets_a_drawn_one():
    info = replace(DATASETS["acdc"], split_file=None)
    assert choose_split(CASES, info) == draw_split(PATIENTS)
