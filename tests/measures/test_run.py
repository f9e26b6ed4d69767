import csv
import json
import os
import subprocess
import sys

import h5py
import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from mamba_unet.cli import main
from mamba_unet.measures.run import measure_files
from mamba_unet.volumes import limits
from mamba_unet.volumes.volume import Volume
from mamba_unet.volumes.write import save_nifti

NAMES = ("background", "right ventricle", "myocardium", "left ventricle")


def heart(lv: int) -> np.ndarray:
    """(D, H, W): a left ventricle of `lv` columns, 4 pixels high, in three slices of five, the others beside it."""
    label = np.zeros((5, 20, 20), np.uint8)
    label[1:4, 2:6, 2 : 2 + lv] = 3
    label[1:4, 8:12, 2:12] = 2
    label[1:4, 13:17, 2:7] = 1
    return label


def save_labels(path, label: np.ndarray, spacing_mm=(8, 1.5, 1.25), names=NAMES) -> None:
    """As `predict` writes them."""
    save_nifti(path, Volume.from_array(label, spacing_mm), label if label.ndim == 4 else label[None], class_names=names)


def rows_of(path) -> list[dict[str, str]]:
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream))


def test_what_predict_wrote_is_measured_without_being_told_anything(tmp_path, capsys):
    for name, lv in (("patient001_frame01", 10), ("patient001_frame12", 4)):
        save_labels(tmp_path / "predicted" / f"{name}.nii.gz", heart(lv))
        for beside in ("_preview.png", "_probabilities.nii.gz", "_uncertainty.nii.gz", ".dcm", "_statistics.json"):
            (tmp_path / "predicted" / f"{name}{beside}").write_bytes(b"")
    assert main(["measure", str(tmp_path / "predicted"), "--cardiac", "--out", str(tmp_path / "out")]) == 0
    rows = rows_of(tmp_path / "out" / "statistics.csv")
    assert [(row["case"], row["structure"], row["voxels"]) for row in rows if row["structure"] == "left ventricle"] == [
        ("patient001_frame01", "left ventricle", "120"),
        ("patient001_frame12", "left ventricle", "48"),
    ]
    assert float(rows[2]["volume_ml"]) == pytest.approx(120 * 15 / 1000)
    (row,) = rows_of(tmp_path / "out" / "cardiac.csv")
    assert float(row["lv_ef_percent"]) == pytest.approx(60) and row["notes"] == ""
    assert "| patient001 | frame01 | frame12 |" in (tmp_path / "out" / "cardiac.md").read_text()
    areas = json.loads((tmp_path / "out" / "statistics.json").read_text())["patient001_frame01"][2]["area_mm2"]
    assert areas == pytest.approx([0, 75, 75, 75, 0])
    out = capsys.readouterr().out
    assert "left ventricle" in out and "60.0" in out


def test_acdcs_hdf5_is_measured_with_names_and_spacing_stated(acdc_dir, tmp_path):
    files = sorted(map(str, (acdc_dir / "ACDC_training_volumes").glob("patient00[12]_*.h5")))
    out = ["--out", str(tmp_path)]
    spacing = ["--spacing", "10", "1.5", "1.5"]
    assert main(["measure", *files, "--dataset", "acdc", *spacing, "--cardiac", "--images", *files, *out]) == 0
    for row in rows_of(tmp_path / "statistics.csv"):
        with h5py.File(acdc_dir / "ACDC_training_volumes" / f"{row['case']}.h5") as file:
            chosen = file["label"][()] == NAMES.index(row["structure"])
            assert float(row["volume_ml"]) == pytest.approx(chosen.sum() * 22.5 / 1000, rel=1e-9)
            assert float(row["mean_intensity"]) == pytest.approx(file["image"][()][chosen].mean(dtype=float), rel=1e-9)
    assert [float(row["lv_ef_percent"]) for row in rows_of(tmp_path / "cardiac.csv")] == pytest.approx(
        [23.65, 29.14], abs=0.01
    )


def test_hearts_without_spacing_fail_with_the_way_out(tmp_path, capsys):
    for name, lv in (("a_ED", 10), ("a_ES", 4)):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file["label"] = heart(lv)
    files = [str(tmp_path / f"a_{phase}.h5") for phase in ("ED", "ES")]
    names = ["--class-names", "RV", "MYO", "LV"]
    assert main(["measure", *files, "--cardiac", *names, "--out", str(tmp_path / "out")]) == 1
    assert "failed: a: the voxel size is not known" in capsys.readouterr().err
    assert rows_of(tmp_path / "out" / "statistics.csv")[0]["volume_ml"] == ""
    assert not (tmp_path / "out" / "cardiac.csv").exists()


def test_phases_whose_classes_have_other_names_fail_alone(tmp_path, capsys):
    save_labels(tmp_path / "a_ED.nii.gz", heart(10))
    save_labels(tmp_path / "a_ES.nii.gz", heart(4), names=("background", "one", "two", "three"))
    files = [str(tmp_path / f"a_{phase}.nii.gz") for phase in ("ED", "ES")]
    assert main(["measure", *files, "--cardiac", "--out", str(tmp_path / "out")]) == 1
    said = f"failed: a: the classes are {', '.join(NAMES[1:])} at ED and one, two, three at ES"
    assert said in capsys.readouterr().err
    assert len(rows_of(tmp_path / "out" / "statistics.csv")) == 6


def test_a_size_nobody_gave_is_no_millimetre(tmp_path):
    nib.save(nib.Nifti1Image(heart(4).T, np.eye(4)), tmp_path / "a.nii.gz")
    save_nifti(tmp_path / "b.nii.gz", Volume.from_array(heart(4)), heart(4)[None])
    stated = nib.Nifti1Image(heart(4).T, np.eye(4))
    stated.header.set_xyzt_units("mm")
    nib.save(stated, tmp_path / "c.nii.gz")
    cases, _ = measure_files([tmp_path / f"{name}.nii.gz" for name in "abc"], progress=False)
    assert [case.structures[2].volume_ml for case in cases] == [None, None, pytest.approx(0.048)]


def test_a_stated_spacing_goes_before_the_files_and_that_is_said(tmp_path, caplog):
    save_labels(tmp_path / "a.nii.gz", heart(10))
    (case,), _ = measure_files([tmp_path / "a.nii.gz"], spacing_mm=(10, 1, 1), progress=False)
    assert case.structures[2].volume_ml == pytest.approx(1.2)
    assert "taken to be (10, 1, 1) mm" in caplog.text


def test_a_cine_is_measured_with_the_frames_its_info_cfg_names(tmp_path):
    cine = np.stack([heart(lv) for lv in (10, 6, 3, 8)])
    save_labels(tmp_path / "labels" / "patient001_4d.nii.gz", cine)
    save_labels(tmp_path / "acdc" / "patient001_4d.nii.gz", cine)
    (tmp_path / "acdc" / "Info.cfg").write_text("ED: 1\nES: 2\n")
    command = ["measure", str(tmp_path / "labels"), "--cardiac", "--out", str(tmp_path / "out")]
    assert main(command) == 0
    assert rows_of(tmp_path / "out" / "cardiac.csv")[0]["es"] == "frame 2"
    assert main([*command, "--images", str(tmp_path / "acdc" / "patient001_4d.nii.gz")]) == 0
    assert rows_of(tmp_path / "out" / "cardiac.csv")[0]["es"] == "frame 1"
    assert len(rows_of(tmp_path / "out" / "statistics.csv")) == 4 * 3


def test_acdcs_own_folder_gives_its_truths_and_not_its_images(tmp_path):
    for name, array in (("frame01", heart(10) * 7.5), ("frame01_gt", heart(10)), ("4d", heart(10) * 3.3)):
        nib.save(nib.Nifti1Image(array.T, np.diag([1.5, 1.5, 8, 1])), tmp_path / f"patient001_{name}.nii.gz")
    cases, failures = measure_files([tmp_path], class_names=NAMES[1:], progress=False)
    assert [case.case for case in cases] == ["patient001_frame01"] and not failures


def test_a_pattern_of_folders_is_as_the_folders(tmp_path):
    for patient in ("p1", "p2"):
        for name, array in (("frame01", heart(7)), ("frame01_gt", heart(10)), ("frame02_gt", heart(4))):
            save_labels(tmp_path / patient / f"{patient}_{name}.nii.gz", array)
        (tmp_path / patient / f"{patient}_frame01_uncertainty.nii.gz").touch()
    given = [[tmp_path / "p1", tmp_path / "p2"], [f"{tmp_path}/p*"], [f"{tmp_path}/p*/*"], [f"{tmp_path}/**"]]
    for inputs in given:
        cases, failures = measure_files(inputs, progress=False)
        found = {case.case: case.structures[2].voxels for case in cases}
        assert found == {"p1_frame01": 120, "p1_frame02": 48, "p2_frame01": 120, "p2_frame02": 48} and not failures


def test_truths_hide_no_file_of_another_folder(tmp_path):
    save_labels(tmp_path / "truth" / "a_gt.nii.gz", heart(10))
    save_labels(tmp_path / "truth" / "a.nii.gz", heart(9))
    save_labels(tmp_path / "predicted" / "b.nii.gz", heart(8))
    files = [tmp_path / "truth" / "a_gt.nii.gz", tmp_path / "truth" / "a.nii.gz", tmp_path / "predicted"]
    cases, _ = measure_files(files, progress=False)
    assert [(case.case, case.structures[2].voxels) for case in cases] == [("a", 120), ("b", 96)]
    save_labels(tmp_path / "predicted" / "a.nii.gz", heart(8))
    with pytest.raises(ValueError, match=r"would both be called 'a'; measure them one after the other"):
        measure_files([tmp_path / "truth", tmp_path / "predicted"], progress=False)


def test_classes_that_nobody_named_have_a_line_in_every_case(tmp_path):
    for name, values in (("a", [0, 1, 1]), ("b", [3, 1, 2]), ("c", [0, 1, 255])):
        array = np.array(values, np.uint8).reshape(1, 1, 1, 3)
        save_nifti(tmp_path / f"{name}.nii.gz", Volume.from_array(array[0], (1, 10, 10)), array)
    cases, _ = measure_files([tmp_path], progress=False)
    rows = [[(one.structure, one.voxels, one.volume_ml) for one in case.structures] for case in cases]
    assert rows[0] == [("class 1", 2, 0.2), ("class 2", 0, 0), ("class 3", 0, 0)]
    assert rows[1] == [("class 1", 1, 0.1), ("class 2", 1, 0.1), ("class 3", 1, 0.1)]
    assert rows[2] == [("class 1", 1, 0.1), ("class 2", 0, 0), ("class 3", 0, 0)], "255 is unlabelled"


def test_no_table_of_other_hearts_stays(tmp_path):
    save_labels(tmp_path / "labels" / "a_frame01.nii.gz", heart(10))
    save_labels(tmp_path / "labels" / "a_frame02.nii.gz", heart(4))
    save_labels(tmp_path / "one" / "b_frame01.nii.gz", heart(5))
    out = ["--out", str(tmp_path / "out")]
    assert main(["measure", str(tmp_path / "labels"), "--cardiac", *out]) == 0
    assert main(["measure", str(tmp_path / "labels"), *out]) == 0
    assert (tmp_path / "out" / "cardiac.csv").is_file(), "they are of the same labels"
    assert main(["measure", str(tmp_path / "one"), "--cardiac", *out]) == 1
    assert not (tmp_path / "out" / "cardiac.csv").exists() and not (tmp_path / "out" / "cardiac.md").exists()
    assert main(["measure", str(tmp_path / "labels"), "--cardiac", *out]) == 0
    for file in (tmp_path / "labels").iterdir():
        file.write_bytes(b"")
    assert main(["measure", str(tmp_path / "labels"), *out]) == 1
    assert not list((tmp_path / "out").iterdir()), "nothing could be measured"


def test_a_file_that_ends_its_reader_is_one_failed_file(tmp_path, ends_its_reader):
    for name in "abc":
        save_labels(tmp_path / f"{name}.nii.gz", heart(4))
    ends_its_reader("mamba_unet.measures.run", "b.nii.gz")
    cases, failures = measure_files([tmp_path], progress=False)
    assert [case.case for case in cases] == ["a", "c"]
    assert "SIGABRT" in failures[str(tmp_path / "b.nii.gz")]


def test_other_formats_are_read_and_a_bad_file_stops_none(tmp_path, capsys):
    sitk = pytest.importorskip("SimpleITK")
    image = sitk.GetImageFromArray(heart(4))
    image.SetSpacing((1.25, 1.5, 8))
    sitk.WriteImage(image, str(tmp_path / "a.mha"))
    nib.save(nib.Nifti1Image(heart(4).T.astype(np.float32), np.diag([1.5, 1.5, 8, 1])), tmp_path / "b.nii")
    nib.save(nib.Nifti1Image(heart(4).T * 0.5, np.diag([1.5, 1.5, 8, 1])), tmp_path / "c.nii")
    (tmp_path / "d.nii.gz").write_bytes(b"no")
    save_labels(tmp_path / "e.nii.gz", heart(4), names=NAMES[:2])
    nib.save(nib.Nifti1Image(heart(4).T.astype(np.int16) * 300, np.diag([1.5, 1.5, 8, 1])), tmp_path / "f.nii")
    assert main(["measure", str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    rows = rows_of(tmp_path / "out" / "statistics.csv")
    assert [(row["case"], row["structure"]) for row in rows[2::3]] == [("a", "class 3"), ("b", "class 3")]
    assert [float(row["volume_ml"]) for row in rows[2::3]] == pytest.approx([0.72, 0.864])
    errors = capsys.readouterr().err
    assert "c.nii: values from 0 to 1.5: expected class indices" in errors
    assert "d.nii.gz: " in errors and "f.nii: values from 0 to 900" in errors
    assert "e.nii.gz: label value 3 is not in 0..1 (background, right ventricle)" in errors


def test_images_must_be_those_of_the_labels(tmp_path):
    save_labels(tmp_path / "labels" / "a.nii.gz", heart(4))
    save_labels(tmp_path / "labels" / "b.nii.gz", heart(4))
    save_labels(tmp_path / "images" / "a_0000.nii.gz", heart(4)[:, :-1])
    cases, failures = measure_files([tmp_path / "labels"], [tmp_path / "images"], progress=False)
    assert not cases
    reasons = {os.path.basename(path): reason for path, reason in failures.items()}
    assert "do not lie on one grid (shapes (5, 19, 20), (5, 20, 20)); resample the label" in reasons["a.nii.gz"]
    assert "no image is called 'b'; there are a" in reasons["b.nii.gz"]


def test_an_image_that_is_stored_in_another_order_is_brought_into_that_of_its_label(tmp_path):
    """As ITK-SNAP or nibabel's as_closest_canonical save a label of an image in LPS."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, (6, 6, 6)).astype(np.uint8)  # no turn or flip of it is itself
    values = np.array([0, 1000, 100], np.int16)[label]
    for name, order in (("a", ("L", "P", "S")), ("b", ("P", "S", "R")), ("c", ("I", "L", "A"))):
        there = nib.orientations.axcodes2ornt(order)
        for folder, array in (("labels", label), ("images", values)):
            image = nib.Nifti1Image(array, np.diag([2, 2, 2, 1]))
            image.header.set_xyzt_units("mm")
            (tmp_path / folder).mkdir(exist_ok=True)
            nib.save(image if folder == "labels" else image.as_reoriented(there), tmp_path / folder / f"{name}.nii.gz")
    cases, failures = measure_files([tmp_path / "labels"], [tmp_path / "images"], progress=False)
    assert not failures and [[one.mean_intensity for one in case.structures] for case in cases] == [[1000, 100]] * 3


def test_a_sheared_label_is_measured_by_its_determinant(tmp_path):
    affine = np.array([[-1, 0, 0, 0], [0, -1, -5 * np.tan(np.deg2rad(25)), 0], [0, 0, 5, 0], [0, 0, 0, 1]])
    image = nib.Nifti1Image(heart(4).T, affine)
    image.header.set_xyzt_units("mm")
    nib.save(image, tmp_path / "a.nii.gz")
    ((case,), _) = measure_files([tmp_path / "a.nii.gz"], progress=False)
    voxel_ml = np.linalg.det(affine[:3, :3]) / 1000
    assert [one.volume_ml for one in case.structures] == pytest.approx([60 * voxel_ml, 120 * voxel_ml, 48 * voxel_ml])


def test_a_palette_stands_for_indices(tmp_path):
    for name, colours in (("colour", [0, 0, 0, 255, 0, 0, 0, 255, 0]), ("grey", [0, 0, 0, 85, 85, 85, 170, 170, 170])):
        for end in ("png", "gif", "bmp"):
            picture = Image.fromarray(np.array([[0, 1, 1], [2, 2, 2]], np.uint8), "P")
            picture.putpalette(colours)
            picture.save(tmp_path / f"{name}_{end}.{end}")
    cases, failures = measure_files([tmp_path], progress=False)
    assert not failures and len(cases) == 6
    for case in cases:
        assert [(one.structure, one.voxels) for one in case.structures] == [("class 1", 2), ("class 2", 3)], case


def test_names_are_compared_as_they_look(tmp_path):
    """An "o" and two dots, as macOS writes it, are "\u00f6"."""
    save_labels(tmp_path / "labels" / "Jo\u0308rg.nii.gz", heart(4))
    save_labels(tmp_path / "images" / "J\u00f6rg_0000.nii.gz", heart(4))
    cases, failures = measure_files([tmp_path / "labels"], [tmp_path / "images"], progress=False)
    assert not failures and len(cases) == 1


def test_wrong_words_on_the_command_line_are_answered(tmp_path, capsys):
    save_labels(tmp_path / "a.nii.gz", heart(4))
    start = ["measure", str(tmp_path / "a.nii.gz"), "--out", str(tmp_path / "out")]
    assert main([*start, "--dataset", "acdcc"]) == 2
    assert "expected one of acdc, synapse" in capsys.readouterr().err
    assert main([*start, "--spacing", "10", "0", "1"]) == 1
    assert "expected three lengths in mm" in capsys.readouterr().err
    assert main(["measure", str(tmp_path / "none"), "--out", str(tmp_path / "out")]) == 2
    (tmp_path / "predict.json").write_text("{}")
    assert main(["measure", str(tmp_path / "a.nii.gz"), "--out", str(tmp_path)]) == 2
    assert "holds results of predict" in (error := capsys.readouterr().err) and "another folder (--out)" in error
    assert not (tmp_path / "statistics.csv").exists()


def test_measuring_needs_no_torch(tmp_path):
    save_labels(tmp_path / "a.nii.gz", heart(4))
    code = (
        "import sys; from mamba_unet.cli import main; "
        f"code = main(['measure', {str(tmp_path / 'a.nii.gz')!r}, '--out', {str(tmp_path / 'out')!r}]); "
        "sys.exit(code or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_a_label_map_without_foreground_is_measured(tmp_path):
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.uint8), np.eye(4)), tmp_path / "a.nii.gz")
    ((case,), failures) = measure_files([tmp_path / "a.nii.gz"], progress=False)
    assert not failures and [one.voxels for one in case.structures] == [0]
    assert main(["measure", str(tmp_path / "a.nii.gz"), "--out", str(tmp_path / "out")]) == 0


def test_a_mask_of_black_and_white_is_one_class_and_grey_levels_are_refused(tmp_path):
    mask = np.zeros((8, 8), np.uint8)
    mask[2:5, 2:5] = 255
    Image.fromarray(mask).save(tmp_path / "binary.png")
    mask[2, 2:4] = 253, 7
    Image.fromarray(mask).save(tmp_path / "grey.png")
    (case,), failures = measure_files([tmp_path], progress=False)
    assert [(one.structure, one.voxels) for one in case.structures] == [("class 1", 9)]
    assert "its values 7, 253, 255 do not plainly show classes" in failures[str(tmp_path / "grey.png")]
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(tmp_path / "ramp.png")
    assert "do not plainly show classes" in measure_files([tmp_path / "ramp.png"], progress=False)[1].popitem()[1]
    names = [f"organ {number}" for number in range(1, 64)]
    (case,), _ = measure_files([tmp_path / "ramp.png"], class_names=names, progress=False)
    assert len(case.structures) == 63


def test_the_names_in_a_segmentation_of_slicer_are_used(tmp_path):
    head = "NRRD0004\ntype: uchar\ndimension: 3\nsizes: 2 2 1\nencoding: raw\n"
    head += "Segment0_Name:=liver\nSegment0_LabelValue:=1\n\n"
    (tmp_path / "a.seg.nrrd").write_bytes(head.encode() + bytes([0, 1, 1, 2]))
    ((case,), _) = measure_files([tmp_path / "a.seg.nrrd"], progress=False)
    assert [(one.structure, one.voxels) for one in case.structures] == [("liver", 2), ("class 2", 1)]


def test_the_limit_on_memory_is_asked_for_by_the_command(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(limits, "max_bytes", limits.max_bytes)
    save_labels(tmp_path / "a.nii.gz", heart(5))
    words = ["measure", str(tmp_path / "a.nii.gz"), "--out", str(tmp_path / "out")]
    assert main([*words, "--max-memory", "0.000001"]) == 1
    assert "GiB of memory, the limit is" in capsys.readouterr().err
    assert main([*words, "--max-memory", "1"]) == 0
    for word in ("0", "-1", "much", "nan"):
        with pytest.raises(SystemExit):
            main([*words, "--max-memory", word])


def test_names_that_were_not_given_apart_are_refused(tmp_path):
    save_labels(tmp_path / "a.nii.gz", heart(5))
    with pytest.raises(ValueError, match="'RV,MYO,LV' is one name with commas; give several names apart"):
        measure_files([tmp_path / "a.nii.gz"], class_names=["RV,MYO,LV"], progress=False)
