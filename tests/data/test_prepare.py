import json
import os
import shutil
import signal
import subprocess
import sys
import time

import nibabel as nib
import numpy as np
import pytest

from mamba_unet.cli import main
from mamba_unet.data import BadDataError, PreparedDataset, prepare
from mamba_unet.data.registry import DATASETS, DatasetInfo
from mamba_unet.files import locked
from mamba_unet.views.intensity import window


def stamps(out):
    return {path.name: path.stat().st_mtime_ns for path in (out / "images").iterdir()}


def test_a_second_run_redoes_nothing_and_gives_the_same(nnunet, tmp_path):
    source = nnunet()
    first = prepare(source, tmp_path / "out", progress=False)
    before = stamps(tmp_path / "out")
    second = prepare(source, tmp_path / "out", progress=False)
    assert stamps(tmp_path / "out") == before
    assert first.fingerprint == second.fingerprint and first.splits == second.splits


def test_only_a_changed_case_is_redone(nnunet, tmp_path, make):
    source = nnunet()
    first = prepare(source, tmp_path / "out", progress=False)
    before = stamps(tmp_path / "out")
    make.nifti(source / "imagesTr" / "s2_0000.nii.gz", make.subject(77).image)
    second = prepare(source, tmp_path / "out", progress=False)
    changed = {name for name, stamp in stamps(tmp_path / "out").items() if stamp != before[name]}
    assert changed == {"s2.npy"} and first.fingerprint != second.fingerprint


@pytest.mark.parametrize(
    ("ending", "header"),
    [
        (".mhd", "NDims = 3\nDimSize = 12 16 3\nElementType = MET_UCHAR\nElementDataFile = {}\n"),
        (".nhdr", "NRRD0004\ntype: uint8\ndimension: 3\nsizes: 12 16 3\nencoding: raw\ndata file: {}\n"),
    ],
)
def test_a_case_whose_data_lie_beside_its_header_is_redone_when_they_change(tmp_path, make, ending, header):
    source = tmp_path / "source"
    for kind in ("images", "labels"):
        (source / kind).mkdir(parents=True)
        for seed in range(4):
            (source / kind / f"s{seed}{ending}").write_text(header.format(f"s{seed}.raw"))
            array = getattr(make.subject(seed), kind.removesuffix("s"))
            (source / kind / f"s{seed}.raw").write_bytes(array.astype(np.uint8).tobytes())
    first = prepare(source, tmp_path / "out", progress=False)
    other = make.subject(9).label
    (source / "labels" / "s2.raw").write_bytes(other.tobytes())
    second = prepare(source, tmp_path / "out", progress=False)
    assert np.array_equal(second.case("s2").label, other) and first.fingerprint != second.fingerprint


def test_data_prepared_anew_under_somebody_who_reads_them_are_refused_to_him(nnunet, tmp_path):
    source, out = nnunet(), tmp_path / "out"
    opened = prepare(source, out, progress=False)
    prepare(source, out, progress=False)
    assert opened.case("s0").image.max() == 1, "they are the same"
    (out / "dataset.json").rename(tmp_path / "away")  # `prepare` is about to write it
    assert opened.case("s0").image.max() == 1
    (tmp_path / "away").rename(out / "dataset.json")
    prepare(source, out, intensity=window(0, 100), progress=False)
    with pytest.raises(ValueError, match="was prepared anew while it is in use"):
        opened.case("s0")


def test_other_settings_redo_every_case(nnunet, tmp_path):
    source = nnunet()
    first = prepare(source, tmp_path / "out", progress=False)
    before = stamps(tmp_path / "out")
    second = prepare(source, tmp_path / "out", intensity=window(0, 100), progress=False)
    assert all(stamp != before[name] for name, stamp in stamps(tmp_path / "out").items())
    assert (second.case("s0").image == 1).mean() > 0.5 and second.intensity[0]["high"] == 100
    assert first.fingerprint != second.fingerprint


def test_warnings_are_told_again_when_nothing_is_redone(nnunet, tmp_path, make):
    source = nnunet()
    make.nifti(source / "labelsTr" / "s1.nii.gz", np.zeros((3, 16, 12), np.uint8))
    prepare(source, tmp_path / "out", progress=False)
    told = (tmp_path / "out" / "check.txt").read_text()
    prepare(source, tmp_path / "out", progress=False)
    assert "empty label" in told and (tmp_path / "out" / "check.txt").read_text() == told


def test_what_was_a_warning_is_an_error_once_the_data_set_is_named(nnunet, tmp_path, make, monkeypatch):
    source = nnunet()
    make.nifti(source / "labelsTr" / "s1.nii.gz", np.zeros((3, 16, 12), np.uint8))
    prepare(source, tmp_path / "out", progress=False)
    monkeypatch.setitem(DATASETS, "known", DatasetInfo("known", ("background", "one", "two", "three")))
    with pytest.raises(ValueError, match=r"error: empty label\n.*s1\.nii\.gz"):
        prepare(source, tmp_path / "out", dataset="known", progress=False)


def test_a_terminal_shows_ten_files_of_a_kind_and_a_file_all(nnunet, tmp_path, make, capsys):
    source = nnunet(count=14)
    for number in range(1, 13):
        make.nifti(source / "labelsTr" / f"s{number}.nii.gz", np.zeros((3, 16, 12), np.uint8))
    assert main(["prepare", str(source), str(tmp_path / "out")]) == 0
    told, kept = capsys.readouterr().out, (tmp_path / "out" / "check.txt").read_text()
    assert "and 2 more" in told and "s9.nii.gz" not in told and str(tmp_path / "out" / "check.txt") in told
    assert "s9.nii.gz" in kept


def test_cases_that_are_gone_are_removed(nnunet, tmp_path):
    source = nnunet()
    prepare(source, tmp_path / "out", progress=False)
    for file in ("imagesTr/s1_0000.nii.gz", "labelsTr/s1.nii.gz"):
        (source / file).unlink()
    prepared = prepare(source, tmp_path / "out", progress=False)
    assert prepared.identifiers == ["s0", "s2", "s3", "s4"]
    assert sorted(path.stem for path in (tmp_path / "out" / "labels").iterdir()) == prepared.identifiers


def test_repairing_goes_on_from_the_refused_run(nnunet, tmp_path, make):
    source = nnunet()
    make.nifti(source / "labelsTr" / "s4.nii.gz", make.subject(4).label + 9)
    with pytest.raises(BadDataError):
        prepare(source, tmp_path / "out", progress=False)
    before = stamps(tmp_path / "out")
    make.nifti(source / "labelsTr" / "s4.nii.gz", make.subject(4).label)
    prepare(source, tmp_path / "out", progress=False)
    after = stamps(tmp_path / "out")
    assert set(after) - set(before) == {"s4.npy"} and before.items() <= after.items()


def test_fingerprint_does_not_depend_on_where_the_files_lie(nnunet, tmp_path):
    source = nnunet()
    first = prepare(source, tmp_path / "a", progress=False)
    source.rename(tmp_path / "moved")
    assert prepare(tmp_path / "moved", tmp_path / "b", progress=False).fingerprint == first.fingerprint


def test_a_folder_with_other_files_is_not_written_to(nnunet, tmp_path):
    source = nnunet()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("x")
    with pytest.raises(ValueError, match="holds other files"):
        prepare(source, tmp_path / "out", progress=False)
    with pytest.raises(ValueError, match="holds other files"):
        prepare(source, source, progress=False)


def test_another_prepared_data_set_is_not_written_over(nnunet, tmp_path):
    source = nnunet()
    prepare(source, tmp_path / "data", progress=False)
    shutil.copytree(source, tmp_path / "another")
    with pytest.raises(ValueError, match=f"was prepared from {source}"):
        prepare(tmp_path / "another", tmp_path / "data", progress=False)
    with pytest.raises(ValueError, match="inside a prepared data set"):
        prepare(tmp_path / "another", tmp_path / "data" / "cases" / "more", progress=False)


def test_another_programs_dataset_json_is_not_taken_for_ours(nnunet, tmp_path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "dataset.json").write_text("{}")
    with pytest.raises(ValueError, match="holds other files"):
        prepare(nnunet(), tmp_path / "raw", progress=False)
    assert (tmp_path / "raw" / "dataset.json").read_text() == "{}"


def test_a_run_killed_in_its_first_case_goes_on(nnunet, tmp_path, monkeypatch):
    def killed(*args):
        raise KeyboardInterrupt

    source = nnunet()
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(sys.modules["mamba_unet.data.prepare"], "save_array", killed)  # the name is the function's too
        prepare(source, tmp_path / "out", progress=False)
    assert len(prepare(source, tmp_path / "out", progress=False).identifiers) == 5


def test_a_case_whose_record_is_empty_is_prepared_again(nnunet, tmp_path):
    """As a machine leaves it that lost its power."""
    source, out = nnunet(), tmp_path / "out"
    fingerprint = prepare(source, out, progress=False).fingerprint
    (out / "cases" / "s1.json").write_text("")
    (out / "dataset.json").write_text("")
    before = (out / "labels" / "s2.npy").stat().st_mtime_ns
    assert prepare(source, out, progress=False).fingerprint == fingerprint
    assert json.loads((out / "cases" / "s1.json").read_text())["record"]
    assert (out / "labels" / "s2.npy").stat().st_mtime_ns == before


@pytest.mark.skipif(sys.platform == "win32", reason="no locks there")
def test_two_at_once_do_not_write_into_one_folder(nnunet, tmp_path):
    """Else cases of one name would be one's images under the other's description."""
    source, out = nnunet(), tmp_path / "out"
    with locked(out, "preparation", ""), pytest.raises(ValueError, match=r"another preparation writes .*give another"):
        prepare(source, out, progress=False)
    assert not out.exists()
    out.mkdir()
    (out / ".lock").touch()  # of one that was killed before its first case
    assert len(prepare(source, out, progress=False).identifiers) == 5 and not (out / ".lock").exists()


def test_a_finished_set_is_unfinished_while_its_cases_are_removed(nnunet, tmp_path, monkeypatch):
    source = nnunet()
    prepare(source, tmp_path / "out", progress=False)
    for file in ("imagesTr/s1_0000.nii.gz", "labelsTr/s1.nii.gz"):
        (source / file).unlink()

    def killed(path, text):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(sys.modules["mamba_unet.data.prepare"], "write_text", killed)
        prepare(source, tmp_path / "out", progress=False)
    with pytest.raises(ValueError, match="unfinished"):
        PreparedDataset(tmp_path / "out")


def test_a_voxel_size_that_nobody_told_is_unknown(nnunet, tmp_path):
    """An identity affine without a unit, as programs write that know no size."""
    source = nnunet()
    for file in [*source.glob("*Tr/s0*")]:
        image = nib.load(file)
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj), np.eye(4)), file)
    prepared = prepare(source, tmp_path / "out", progress=False)
    assert prepared.spacing_mm("s0") is None and prepared.spacing_mm("s1") is not None


def test_unknown_dataset_is_named(nnunet, tmp_path):
    with pytest.raises(ValueError, match="unknown dataset 'acdx'; expected one of acdc, synapse"):
        prepare(nnunet(), tmp_path / "out", dataset="acdx", progress=False)


def test_folds_and_the_users_split_are_written(nnunet, tmp_path):
    file = tmp_path / "mine.json"
    file.write_text(json.dumps({"train": ["s0", "s1", "s2"], "holdout": ["s3", "s4"]}))
    prepared = prepare(nnunet(), tmp_path / "out", splits=file, folds=5, progress=False)
    assert prepared.splits["holdout"] == ["s3", "s4"] and len(prepared.splits["fold4/train"]) == 3
    written = json.loads((tmp_path / "out" / "splits.json").read_text())
    assert written["origin"] == "given: mine.json; 5 folds by patient, seed 0"
    assert written["patients"]["holdout"] == ["s3", "s4"]
    again = prepare(nnunet(), tmp_path / "out2", splits=tmp_path / "out" / "splits.json", progress=False)
    assert again.splits == prepared.splits


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
def test_a_killed_run_is_not_taken_for_a_finished_one_and_goes_on(tmp_path, make):
    for seed in range(40):
        subject = make.subject(seed, shape=(8, 128, 128))
        make.h5(tmp_path / "src" / f"patient{seed + 1:03d}_frame01.h5", subject.image, subject.label)
    out = tmp_path / "out"
    code = f"from mamba_unet.data import prepare; prepare({str(tmp_path / 'src')!r}, {str(out)!r}, progress=False)"
    process = subprocess.Popen([sys.executable, "-c", code])
    while len(list((out / "cases").glob("*.json"))) < 3 and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it finished before it could be killed"
    (out / "images" / ".0a1b2c3d.patient001_frame01.npy").write_bytes(b"half an array")
    with pytest.raises(ValueError, match="unfinished"):
        PreparedDataset(out)
    finished = {path.stem: path.stat().st_mtime_ns for path in (out / "cases").glob("p*.json")}
    prepared = prepare(tmp_path / "src", out, progress=False)
    assert len(prepared.identifiers) == 40
    assert {stem: (out / "cases" / f"{stem}.json").stat().st_mtime_ns for stem in finished} == finished
    assert not list(out.glob("*/.*"))
    subject = make.subject(7, shape=(8, 128, 128))
    assert np.array_equal(prepared.case("patient008_frame01").image[0], make.minmax(subject.image))


def test_real_acdc_by_its_published_split(acdc_dir, tmp_path):
    source = tmp_path / "some"
    source.mkdir()
    for patient in ("patient001", "patient002", "patient003", "patient074", "patient076"):
        for file in (acdc_dir / "ACDC_training_volumes").glob(f"{patient}_*.h5"):
            (source / file.name).symlink_to(file)
    prepared = prepare(source, tmp_path / "out", progress=False)
    assert {name: len(cases) for name, cases in prepared.splits.items()} == {"train": 6, "val": 2, "test": 2}
    case = prepared.case("patient001_frame12")
    assert case.image.shape == (1, 10, 256, 216) and case.image.min() == 0 and case.image.max() == 1
    assert set(np.unique(case.label)) == {0, 1, 2, 3}
    told = (tmp_path / "out" / "check.txt").read_text()
    assert "95 of the 100 patients of the split are not in the data" in told
    assert told.count("the image of patient074") == 2  # ACDC holds the same images under two patients' names
