import codecs
import csv
import re

import h5py
import numpy as np
import pytest

from mamba_unet.measures.cardiac import (
    cardiac_cases,
    cardiac_measures,
    cardiac_table,
    find_phases,
    heart_structures,
    read_info_cfg,
    write_cardiac,
)
from mamba_unet.measures.statistics import CaseStatistics, structure_statistics

NAMES = ("background", "right ventricle", "myocardium", "left ventricle")
SPACING_MM = (10, 1.5, 1.5)


def heart(lv: int, rv: int = 40, myocardium: int = 30, slices: int = 4) -> np.ndarray:
    """(D, H, W) label map with so many pixels of each structure in every one of `slices` slices of six."""
    label = np.zeros((6, 20, 20), np.uint8)
    flat = label[:, 2:18, 2:18].reshape(6, -1)
    for index, pixels, start in ((3, lv, 0), (1, rv, 100), (2, myocardium, 180)):
        flat[1 : 1 + slices, start : start + pixels] = index
    label[:, 2:18, 2:18] = flat.reshape(6, 16, 16)
    return label


def case(name: str, *frames: np.ndarray, source=None, spacing_mm=SPACING_MM, names=NAMES) -> CaseStatistics:
    return CaseStatistics(name, structure_statistics(np.stack(frames), names, spacing_mm), source)


def test_measures_are_those_computed_by_hand():
    measures = cardiac_measures(heart(lv=60), heart(lv=24, rv=20), (10, 2, 1), NAMES)
    assert measures.lv_edv_ml == pytest.approx(4 * 60 * 20 / 1000)
    assert measures.lv_esv_ml == pytest.approx(4 * 24 * 20 / 1000)
    assert measures.lv_sv_ml == pytest.approx(2.88) and measures.lv_ef_percent == pytest.approx(60)
    assert measures.rv_edv_ml == pytest.approx(3.2) and measures.rv_ef_percent == pytest.approx(50)
    assert measures.myocardial_mass_g == pytest.approx(4 * 30 * 20 / 1000 * 1.05)
    assert measures.notes == ()


def test_acdc_patients_agree_with_another_programs_volumes(acdc_dir):
    sitk = pytest.importorskip("SimpleITK")
    by_patient: dict[str, list] = {}
    for path in sorted((acdc_dir / "ACDC_training_volumes").glob("patient0[0-9][05]_frame*.h5")):
        with h5py.File(path) as file:
            by_patient.setdefault(path.stem.split("_")[0], []).append((path.stem, file["label"][()]))
    cases = [case(name, label) for frames in by_patient.values() for name, label in frames]
    hearts, failures = cardiac_cases(cases)
    assert not failures and [one.case for one in hearts] == list(by_patient)
    for one in hearts:
        volumes = []
        for _, label in by_patient[one.case]:
            image = sitk.GetImageFromArray(label)
            image.SetSpacing(SPACING_MM[::-1])
            shapes = sitk.LabelShapeStatisticsImageFilter()
            shapes.Execute(image)
            volumes.append([shapes.GetPhysicalSize(index) / 1000 for index in (1, 2, 3)])
        es, ed = sorted(volumes, key=lambda ml: ml[2])
        got = one.measures
        assert (got.rv_edv_ml, got.rv_esv_ml) == pytest.approx((ed[0], es[0]), rel=1e-9)
        assert (got.lv_edv_ml, got.lv_esv_ml) == pytest.approx((ed[2], es[2]), rel=1e-9)
        assert got.lv_ef_percent == pytest.approx(100 - 100 * es[2] / ed[2], rel=1e-9)
        assert got.myocardial_mass_g == pytest.approx(1.05 * ed[1], rel=1e-9)


def test_acdc_groups_are_told_apart_by_the_ejection_fraction(acdc_dir):
    """By the challenge's definition: dilated hearts (patients 1-20) below 40 %, healthy ones (61-80) above 50 %."""
    for patients, low, high in ((range(1, 21, 3), 0, 40), (range(61, 81, 3), 50, 80)):
        cases = []
        for patient in patients:
            for path in (acdc_dir / "ACDC_training_volumes").glob(f"patient{patient:03}_frame*.h5"):
                with h5py.File(path) as file:
                    cases.append(case(path.stem, file["label"][()]))
        hearts, _ = cardiac_cases(cases)
        assert len(hearts) == len(patients)
        for one in hearts:
            assert low < one.measures.lv_ef_percent < high and one.measures.notes == ()


@pytest.mark.parametrize(
    "names",
    [
        ("background", "RV", "MYO", "LV"),
        ("background", "RVC", "LVM", "LVC"),
        ("background", "Right_Ventricle", "LV-myocardium", "left ventricle (blood pool)"),
        ("background", "heart_ventricle_right", "heart_myocardium", "heart_ventricle_left"),
    ],
)
def test_structures_are_found_under_the_names_data_sets_use(names):
    assert tuple(heart_structures(names).values()) == (names[3], names[1], names[2])
    assert cardiac_measures(heart(60), heart(24), SPACING_MM, names).lv_ef_percent == pytest.approx(60)


def test_without_a_left_ventricle_it_is_said_what_was_looked_for():
    with pytest.raises(ValueError, match=r"among background, liver; looked for left ventricle, lv, .*--class-names"):
        heart_structures(("background", "liver"))
    with pytest.raises(ValueError, match=r"\['LV', 'left ventricle'\] are all the left ventricle"):
        heart_structures(("background", "LV", "left ventricle"))


def test_a_left_ventricle_alone_is_measured_and_the_rest_noted():
    names = ("background", "a", "b", "LV")
    measures = cardiac_measures(heart(60), heart(24), SPACING_MM, names)
    assert measures.lv_ef_percent == pytest.approx(60)
    assert measures.rv_ef_percent is None and measures.rv_edv_ml is None and measures.myocardial_mass_g is None
    assert measures.notes == ("no class is the right ventricle", "no class is the myocardium")


def test_implausible_results_carry_notes():
    def notes(ed, es):
        return "; ".join(cardiac_measures(ed, es, SPACING_MM, NAMES).notes)

    swapped = cardiac_measures(heart(24), heart(60), SPACING_MM, NAMES)
    assert (
        swapped.lv_ef_percent == pytest.approx(-150) and "larger at ES (5.4 ml) than at ED (2.2 ml)" in swapped.notes[0]
    )
    assert "no left ventricle at ES" in notes(heart(60), heart(0))
    assert "no myocardium at ED" in notes(heart(60, myocardium=0), heart(30))
    nothing = cardiac_measures(heart(0), heart(0), SPACING_MM, NAMES)
    assert nothing.lv_ef_percent is None and nothing.lv_edv_ml == 0 and "no left ventricle at ED" in nothing.notes
    assert "left ventricle in 2 slices at ES and 4 at ED" in notes(heart(60), heart(30, slices=2))
    gap, cut = heart(60), heart(60)
    gap[2][gap[2] == 3] = 0
    assert "left ventricle missing in a slice between others at ED" in notes(gap, heart(24))
    late = heart(60)
    late[3][late[3] == 3] = 0
    assert "left ventricle missing in a slice between others at ES" in notes(heart(60), late)
    assert "slices at ES" not in notes(heart(60), heart(0)) + notes(heart(60), heart(1)) + notes(heart(60), heart(24))
    assert "left ventricle in 1 slice at ES and 4 at ED" in notes(heart(60), heart(30, slices=1))
    assert "slice" not in notes(heart(60, slices=3), heart(30, slices=2))  # two thirds are enough
    tip = heart(60)
    tip[3:5][tip[3:5] == 3] = 0
    tip[3:5, 2, 2] = 3
    assert "slice" not in notes(heart(60), tip)  # two of its four slices show one pixel each
    cut[2, 0, 5] = 3
    assert "left ventricle cut off by the image border at ED" in notes(cut, heart(24))


def test_frames_of_different_shape_are_refused():
    with pytest.raises(ValueError, match=r"end-diastole of shape \(6, 20, 20\), end-systole \(5, 20, 20\)"):
        cardiac_measures(heart(60), heart(24)[1:], SPACING_MM, NAMES)


def test_stacks_of_different_height_are_noted():
    (one,), _ = cardiac_cases([case("p_ED", heart(60)), case("p_ES", heart(24)[:-1])])
    assert one.measures.notes == ("the stack has 6 slices at ED and 5 at ES",)


def test_phases_are_the_largest_and_the_smallest_that_is_there():
    assert find_phases([50, 90, 70, 0, 20, 30]) == (1, 4)
    assert find_phases([5, 5]) == (0, 0)
    with pytest.raises(ValueError, match="no left ventricle in any of 2 frames"):
        find_phases([0, 0])


def test_a_cine_is_measured_between_its_extremes():
    (one,), failures = cardiac_cases([case("patient001_4d", heart(50), heart(60), heart(0), heart(24), heart(30))])
    assert not failures and (one.case, one.ed, one.es) == ("patient001_4d", "frame 1", "frame 3")
    assert one.measures.lv_ef_percent == pytest.approx(60)
    assert one.measures.notes == ("1 of 5 frames without a left ventricle are left out",)


def test_a_cines_frames_count_from_one_for_people_and_from_zero_in_files(tmp_path):
    cine = case("patient001_4d", heart(50), heart(60), heart(24))
    hearts, _ = cardiac_cases([cine])
    write_cardiac(tmp_path, hearts)
    assert "| frame 2 | frame 3 |" in (tmp_path / "cardiac.md").read_text()
    assert "patient001_4d,frame 1,frame 2," in (tmp_path / "cardiac.csv").read_text()
    _, failures = cardiac_cases([case("still", heart(50))])
    assert failures["still"].startswith("only frame 1, and ejection needs")


def test_a_cine_that_does_not_beat_is_noted():
    (one,), _ = cardiac_cases([case("a", heart(50), heart(50))])
    assert one.measures.lv_ef_percent == 0 and one.measures.notes == ("ED and ES are the same frame",)


def test_info_cfg_says_which_frame_is_which(tmp_path):
    (tmp_path / "Info.cfg").write_text("ED: 2\nES: 3\nGroup: DCM\nHeight: 184.0\nNbFrame: 4\nWeight: 95.0\n")
    source = tmp_path / "patient001_4d.nii.gz"
    cine = case("patient001_4d", heart(70), heart(60), heart(24), heart(10), source=source)
    frames = [case(f"patient001_frame{n:02}", heart(lv), source=source) for n, lv in ((2, 20), (3, 40))]
    hearts, failures = cardiac_cases([cine, *frames])
    assert not failures
    assert [(one.case, one.ed, one.es, one.phases_by) for one in hearts] == [
        ("patient001_4d", "frame 1", "frame 2", "Info.cfg"),
        ("patient001", "patient001_frame02", "patient001_frame03", "Info.cfg"),
    ]
    assert hearts[0].measures.lv_ef_percent == pytest.approx(60)
    assert hearts[1].measures.lv_ef_percent == pytest.approx(-100) and hearts[1].measures.notes


def test_of_several_info_cfgs_that_of_the_first_folder_counts(tmp_path):
    for number in range(1, 7):
        (tmp_path / f"{number}").mkdir()
        (tmp_path / f"{number}" / "Info.cfg").write_text(f"ED: {number}\nES: {number % 6 + 1}\n")
    frames = [case(f"p_frame{n:02}", heart(60 - n), source=tmp_path / f"{n}" / "a.nii.gz") for n in (4, 2, 1, 6, 3, 5)]
    (one,), _ = cardiac_cases(frames)
    assert (one.ed, one.es) == ("p_frame01", "p_frame02")


def test_info_cfg_among_several_patients_is_not_used(tmp_path):
    (tmp_path / "Info.cfg").write_text("ED: 12\nES: 1\n")
    cases = [
        case(f"patient00{p}_frame{n:02}", heart(lv), source=tmp_path / "a.nii.gz")
        for p in (1, 2)
        for n, lv in ((1, 60), (12, 24))
    ]
    hearts, _ = cardiac_cases(cases)
    assert [(one.phases_by, one.measures.lv_ef_percent) for one in hearts] == [
        ("left ventricle's size", pytest.approx(60))
    ] * 2


def test_info_cfg_beside_files_of_another_patient_is_not_used(tmp_path):
    """Of whom alone is measured, or of whom the other's file is damaged."""
    (tmp_path / "Info.cfg").write_text("ED: 12\nES: 1\n")
    cases = [
        case(f"p2_frame{n:02}", heart(lv), source=tmp_path / f"p2_frame{n:02}_gt.nii.gz")
        for n, lv in ((1, 60), (12, 24))
    ]
    for name in ("p2_4d", "p2_frame01", "p2_frame01_gt", "p2_frame12_gt", "p2_frame01_uncertainty"):
        (tmp_path / f"{name}.nii.gz").touch()
    assert cardiac_cases(cases)[0][0].phases_by == "Info.cfg"
    (tmp_path / "p1_4d.nii.gz").touch()
    (one,), _ = cardiac_cases(cases)
    assert (one.phases_by, one.measures.lv_ef_percent) == ("left ventricle's size", pytest.approx(60))


def test_end_diastole_is_the_frame_of_most_millilitres():
    cases = [case("p_frame01", heart(30), spacing_mm=(10, 2, 2)), case("p_frame12", heart(60), spacing_mm=(10, 1, 1))]
    (one,), _ = cardiac_cases(cases)
    assert one.ed == "p_frame01" and one.measures.lv_ef_percent == pytest.approx(50)


def test_two_files_of_one_frame_and_a_cine_that_is_named_as_a_frame_are_refused():
    _, failures = cardiac_cases(
        [case("p_frame1", heart(60)), case("p_frame01", heart(50)), case("p_frame02", heart(9))]
    )
    assert failures["p"] == "p_frame1 and p_frame01 are the same frame; leave one out"
    _, failures = cardiac_cases([case("p_ED", heart(60), heart(24)), case("p_ES", heart(24))])
    assert failures["p"] == "p_ED is named as one frame and holds 2; rename it"


@pytest.mark.parametrize(
    "text, reason",
    [
        ("ED: 1\n", "found no line 'ES: ...'"),
        ("ED: one\nES: 12\n", "found 'ED: one'"),
        ("ED: 0\nES: 12\n", "found 'ED: 0'"),
        ("ED: 1\nES:\n", "found 'ES: '"),
        ("ED: 1\nES: 13\n", "ES is frame 13, counted from 1; there are frames 1, 12"),
    ],
)
def test_a_bad_info_cfg_fails_its_patient_alone(tmp_path, text, reason):
    folders = [tmp_path / name for name in ("patient001", "patient002")]
    for folder in folders:
        folder.mkdir()
    (folders[0] / "Info.cfg").write_text(text)
    cases = [
        case(f"{folder.name}_frame{n:02}", heart(lv), source=folder / "a.nii.gz")
        for folder in folders
        for n, lv in ((1, 60), (12, 24))
    ]
    hearts, failures = cardiac_cases(cases)
    assert [one.case for one in hearts] == ["patient002"]
    assert failures.keys() == {"patient001"}
    assert reason in failures["patient001"] and str(folders[0] / "Info.cfg") in failures["patient001"]


def test_info_cfg_is_read_as_numbers_and_text(tmp_path):
    (tmp_path / "Info.cfg").write_bytes(
        codecs.BOM_UTF8 + b"ED: 1\r\nES: 12\r\nGroup: DCM\r\nHeight: 184.0\r\nWeight: 95.0\r\n"
    )
    info = read_info_cfg(tmp_path / "Info.cfg")
    assert info == {"ED": 1, "ES": 12, "Group": "DCM", "Height": 184.0, "Weight": 95.0}


def test_frames_can_be_named_by_their_phase():
    (one,), _ = cardiac_cases([case("A0S9V9_sa_ES", heart(60)), case("A0S9V9_sa_ED", heart(24))])
    assert (one.case, one.ed, one.es, one.phases_by) == ("A0S9V9_sa", "A0S9V9_sa_ED", "A0S9V9_sa_ES", "name")
    assert one.measures.lv_ef_percent < 0


def test_a_named_phase_beside_a_numbered_frame_is_not_guessed():
    hearts, failures = cardiac_cases([case("p_ED", heart(60)), case("p_frame02", heart(24))])
    assert not hearts and "only p_ED, p_frame02, and ejection needs" in failures["p"]


def test_one_voxel_of_a_left_ventricle_is_one():
    assert find_phases([0, 1]) == (1, 1)


def test_frames_in_any_order_are_taken_by_their_numbers(tmp_path):
    cases = [case(f"p_frame{n:02}", heart(lv), source=tmp_path / "a.nii.gz") for n, lv in ((9, 60), (5, 24), (1, 60))]
    (one,), _ = cardiac_cases(cases)
    assert (one.ed, one.es) == ("p_frame01", "p_frame05")
    (tmp_path / "Info.cfg").write_text("ED: 1\nES: 7\n")
    assert "there are frames 1, 5, 9" in cardiac_cases(cases)[1]["p"]


def test_a_heart_of_which_one_frame_has_no_size_fails():
    _, failures = cardiac_cases([case("p_ED", heart(60)), case("p_ES", heart(24), spacing_mm=None)])
    assert "--spacing D H W" in failures["p"]


def test_one_frame_alone_or_without_spacing_fails_with_what_to_do():
    hearts, failures = cardiac_cases(
        [
            case("patient001_frame01", heart(60)),
            case("scan", heart(60)),
            case("b_ED", heart(60)),
            case("c_4d", heart(60), heart(24), spacing_mm=None),
            case("d_4d", heart(60), heart(24), names=("background", "x", "y", "z")),
        ]
    )
    assert not hearts and set(failures) == {"patient001", "scan", "b", "c_4d", "d_4d"}
    for name in ("patient001", "scan", "b"):
        assert re.search("^only .*give a cine", failures[name])
    assert "--spacing D H W" in failures["c_4d"] and "looked for left ventricle" in failures["d_4d"]


def test_the_tables_hold_the_numbers_and_the_doubts(tmp_path):
    hearts, _ = cardiac_cases(
        [
            *(case(f"p1_frame{n:02}", heart(lv)) for n, lv in ((1, 60), (9, 24))),
            *(case(f"p2_{phase}", heart(lv)) for phase, lv in (("ED", 24), ("ES", 60))),
        ]
    )
    write_cardiac(tmp_path, hearts)
    with open(tmp_path / "cardiac.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert float(rows[0]["lv_ef_percent"]) == hearts[0].measures.lv_ef_percent
    assert [(row["case"], row["ed"], row["es"]) for row in rows] == [
        ("p1", "p1_frame01", "p1_frame09"),
        ("p2", "p2_ED", "p2_ES"),
    ]
    assert rows[0]["notes"] == "" and "larger at ES" in rows[1]["notes"]
    table = (tmp_path / "cardiac.md").read_text()
    assert table == cardiac_table(hearts)
    assert re.search(r"\| p1 +\| frame01 \| frame09 \| +5.4 \| +2.2 \| +3.2 \| +60.0 \|", table)
    assert re.match(r"\|-+\|-+\|-+\|-+:\|", table.splitlines()[1])
    assert "to be checked" not in cardiac_table(hearts[:1])
    assert "| p2* " in table and "- p2: left ventricle larger at ES" in table
