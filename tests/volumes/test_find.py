import os
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from pydicom.uid import MediaStorageDirectoryStorage

from mamba_unet.volumes.find import find_volumes
from mamba_unet.volumes.formats import UnreadableError


def write_nifti(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(np.zeros((4, 3, 2), np.int16), np.eye(4)), path)


def names(*inputs: str | Path) -> list[str]:
    return [scan.name for scan in find_volumes(inputs)]


@pytest.fixture
def images(tmp_path) -> Path:
    """A folder as users have it: images, notes, what a Mac leaves behind, and a folder below."""
    folder = tmp_path / "images"
    write_nifti(folder / "b_0000.nii.gz", folder / "a.nii", folder / "patient001_4d.nii.gz", folder / "old" / "x.nii")
    sitk.WriteImage(sitk.Image([4, 3, 2], sitk.sitkInt16), folder / "c.mha")
    for name in ("._a.nii", ".hidden.nii.gz", "notes.txt", "Info.cfg", "dataset.json"):
        (folder / name).write_text("no scan")
    return folder


def test_a_folder_stands_for_the_images_in_it_and_not_below(images):
    assert names(images) == ["a", "b", "c", "patient001_4d"]
    scan = find_volumes([images])[1]
    assert scan.path == images / "b_0000.nii.gz" and scan.read().name == "b" and scan.read().source == scan.path


def test_every_kind_of_file_in_a_folder_is_found(tmp_path):
    kinds = "nii nii.gz mha mhd nrrd nhdr png jpg jpeg bmp tif tiff h5 hdf5 npz PNG".split()
    for number, kind in enumerate(kinds):
        (tmp_path / f"{number:02}.{kind}").touch()
    (tmp_path / "a.raw").touch()
    assert names(tmp_path) == [f"{number:02}" for number in range(len(kinds))]


def test_truths_beside_their_images_are_no_scans(tmp_path):
    """ACDC's patient folders; a label map alone may still be given."""
    folder = tmp_path / "patient001"
    write_nifti(*(folder / f"patient001_{part}.nii.gz" for part in ("4d", "frame01", "frame01_gt", "frame12_gt")))
    assert names(folder) == ["patient001_4d", "patient001_frame01", "patient001_frame12_gt"]
    assert names(folder / "patient001_frame01_gt.nii.gz") == ["patient001_frame01_gt"]


def test_globs_and_the_home_folder_are_expanded(images, monkeypatch):
    assert names(images / "*.nii*") == ["a", "b", "patient001_4d"]
    assert names(str(images / "?.*")) == ["a", "c"]
    assert names(images / "**" / "*.nii") == ["a", "x"]
    assert sorted(names(images / "*")) == ["a", "b", "c", "patient001_4d", "x"]  # notes are no scans, folders may be
    monkeypatch.setenv("HOME", str(images.parent))
    monkeypatch.setenv("USERPROFILE", str(images.parent))
    assert names("~/images/a.nii") == ["a"] and names("~/im*/a.nii") == ["a"]
    write_nifti(images / "odd[1].nii")
    assert names(images / "odd[1].nii") == ["odd[1]"]  # a name is not a glob where it exists


def test_inputs_keep_their_order_and_each_is_taken_once(images, monkeypatch):
    link = images.parent / "link.nii"
    monkeypatch.chdir(images)
    assert names("c.mha", images, images / "a.nii", "./old/../a.nii") == ["c", "a", "b", "patient001_4d"]
    os.symlink(images / "a.nii", link.with_name("a.nii"))
    assert names(images / "a.nii", images.parent / "a.nii") == ["a"]


def test_two_inputs_of_one_name_are_both_named(images):
    write_nifti(images.parent / "more" / "b.nii.gz")
    with pytest.raises(ValueError, match=r"b_0000\.nii\.gz and .*more/b\.nii\.gz would both be called 'b'"):
        find_volumes([images, images.parent / "more" / "b.nii.gz"])


def test_two_files_that_would_be_one_channel_or_one_case_are_both_named(tmp_path):
    write_nifti(*(tmp_path / "a" / name for name in ("c_0000.nii.gz", "c_0000.nii", "c_0001.nii.gz")))
    with pytest.raises(ValueError, match=r"c_0000\.nii and .*c_0000\.nii\.gz would both be channel 0000 of 'c'"):
        find_volumes([tmp_path / "a"], channels=2)
    write_nifti(*(tmp_path / "b" / f"c{end}.nii.gz" for end in ("", "_0000", "_0001")))
    with pytest.raises(ValueError, match=r"c\.nii\.gz and .*c_0000\.nii\.gz would both be called 'c'"):
        find_volumes([tmp_path / "b"], channels=2)
    files = [tmp_path / "b" / f"c_000{channel}.nii.gz" for channel in (0, 1)]
    (case,) = find_volumes([*files, tmp_path / "b" / "*_000?.nii.gz"], channels=2)
    assert case.channels == tuple(files)


def test_what_stands_for_nothing_says_what_is_taken(images):
    (images / "empty").mkdir()
    write_nifti(images.parent / "data" / "a_labels" / "a.nii", images.parent / "data" / "imagesTr" / "a.nii")
    for given, reason in (
        (images / "absent.nii.gz", r"absent\.nii\.gz: no such file or folder"),
        (images / "*.dcm", r"\*\.dcm: no image there; expected NIfTI .*DICOM"),
        (images / "*.txt", "no image there"),
        (images / "empty", "empty: no image there; expected NIfTI .*DICOM"),
        (images.parent / "data", r"give one of them, such as .*data/imagesTr$"),
    ):
        with pytest.raises(ValueError, match=reason):
            find_volumes([images / "a.nii", given])
    with pytest.raises(ValueError, match="no images to read; expected NIfTI"):
        find_volumes([])


def test_a_file_that_is_no_scan_says_so_when_it_is_read(images):
    good, bad = find_volumes([images / "a.nii", images / "notes.txt"])
    assert good.read().grey.shape == (1, 2, 3, 4)
    with pytest.raises(UnreadableError, match=r"notes\.txt: not a kind of file that is taken"):
        bad.read()


def test_a_dicom_folder_and_zip_are_named_after_themselves(tmp_path, write_series, volume, monkeypatch):
    files = write_series(tmp_path / "patient 1.2" / "DICOM" / "S1", volume)
    directory = write_series(tmp_path / "patient 1.2", volume[:1], SOPClassUID=MediaStorageDirectoryStorage)
    directory[0].rename(tmp_path / "patient 1.2" / "DICOMDIR")
    (tmp_path / "patient 1.2" / "logo.png").touch()
    with zipfile.ZipFile(tmp_path / "sent.zip", "w") as archive:
        for file in files:
            archive.write(file, file.name)
    folder, sent = find_volumes([tmp_path / "patient 1.2", tmp_path / "sent.zip"])
    assert (folder.name, sent.name) == ("patient 1.2", "sent")
    for scan in (folder, sent):
        assert np.array_equal(scan.read().grey[0], volume) and scan.read().name == scan.name
    monkeypatch.chdir(tmp_path / "patient 1.2")
    assert names(".") == ["patient 1.2"]


def test_several_series_are_named_by_number_and_description(tmp_path, write_series, volume):
    write_series(tmp_path / "study" / "a", volume, SeriesNumber=12, SeriesDescription="Cine SA / 8mm*")
    write_series(tmp_path / "study" / "b", volume[::-1], SeriesNumber=3, SeriesDescription="")
    first, second = find_volumes([tmp_path / "study"])
    assert (first.name, second.name) == ("study_3", "study_12_Cine-SA-8mm")
    assert second.read().name == second.name and np.array_equal(second.read().grey[0], volume)
    assert second.path == tmp_path / "study" and second.series.number == 12


def test_series_alike_of_several_patients_are_told_apart(tmp_path, write_series, volume):
    for patient in ("anna", "bert/1"):
        write_series(tmp_path / "all" / patient, volume, SeriesDescription="cine")
    assert sorted(names(tmp_path / "all")) == ["all_1_cine_anna", "all_1_cine_bert-1"]
    for number in range(2):
        for file in write_series(tmp_path / str(number), volume, SeriesNumber=None, SeriesDescription=None):
            (tmp_path / "flat").mkdir(exist_ok=True)
            file.rename(tmp_path / "flat" / f"{number}{file.name}")
    assert sorted(names(tmp_path / "flat")) == ["flat_1", "flat_2"]


@pytest.mark.parametrize("ending", [".mhd", ".nhdr"])
def test_a_header_goes_with_the_file_that_holds_its_voxels(tmp_path, ending):
    for number in range(2):
        sitk.WriteImage(sitk.Image([4, 3, 2], sitk.sitkInt16), tmp_path / f"x_000{number}{ending}")
    both = [tmp_path / name for name in (f"x_0000{ending}", "x_0000.raw", f"x_0001{ending}", "x_0001.raw")]
    assert [file for scan in find_volumes([tmp_path]) for file in scan.files] == both
    (case,) = find_volumes([tmp_path], channels=2)
    assert case.files == both
    (tmp_path / "secret").touch()
    (tmp_path / "sent").mkdir()
    word = "ElementDataFile =" if ending == ".mhd" else "NRRD0004\ndata file:"
    for header in ("", "\0", f"{word} ../secret", f"{word} {'a' * 5000}", "no header\n" * 9):
        (tmp_path / "sent" / f"y{ending}").write_text(header)
        (damaged,) = find_volumes([tmp_path / "sent"])
        assert damaged.files == [damaged.path]
        with pytest.raises(UnreadableError):
            damaged.read()


def test_dicom_beside_other_files(tmp_path, write_series, volume, caplog):
    write_series(tmp_path / "study", volume)
    (tmp_path / "study" / "preview.jpg").touch()
    write_nifti(tmp_path / "study" / "ct.nii.gz")
    assert names(tmp_path / "study") == ["ct", "study"]  # a preview is no scan
    write_series(tmp_path / "cases" / "originals", volume)
    (tmp_path / "cases" / "logo.png").touch()
    assert names(tmp_path / "cases") == ["logo"]
    assert f"passed over DICOM in folders below, such as {Path('originals', 'IM')}" in caplog.text
    caplog.clear()
    write_nifti(tmp_path / "cases" / "a.nii.gz")
    assert names(tmp_path / "cases") == ["a", "logo"] and not caplog.text  # what lies below images is not meant


def test_images_below_a_folder_that_are_passed_over_for_dicom_are_named(tmp_path, write_series, volume, caplog):
    write_series(tmp_path / "study" / "series", volume)
    write_nifti(tmp_path / "study" / "sub" / "b.nii.gz")
    assert names(tmp_path / "study") == ["study"]
    assert f"passed over {Path('sub', 'b.nii.gz')}: of folders below only DICOM is taken" in caplog.text


def test_slices_of_one_series_are_not_taken_for_scans(tmp_path, write_series, volume):
    one, other, *_ = write_series(tmp_path / "study", volume)
    assert names(one) == [one.name] and find_volumes([one])[0].read().grey.shape[:2] == (1, 1)
    with pytest.raises(ValueError, match=r"are slices of one DICOM series; give the folder they are in"):
        find_volumes([one, other])
    with pytest.raises(ValueError, match="slices of one DICOM series"):
        find_volumes([tmp_path / "study" / "IM*"])


def test_a_damaged_dicom_folder_says_so_when_it_is_read(tmp_path, write_series, volume, images):
    files = write_series(tmp_path / "study", volume)
    files[1].write_bytes(files[1].read_bytes()[:400])
    (tmp_path / "bad.zip").write_bytes(b"PK no zip")
    bad, worse, good = find_volumes([tmp_path / "study", tmp_path / "bad.zip", images / "a.nii"])
    assert (bad.name, worse.name, good.name) == ("study", "bad", "a")
    assert not bad.files
    with pytest.raises(UnreadableError, match=files[1].name):
        bad.read()
    with pytest.raises(UnreadableError, match=r"bad\.zip"):
        worse.read()


def test_a_link_to_nothing_is_named_and_linked_files_and_folders_are_followed(tmp_path, write_series, volume):
    write_nifti(tmp_path / "store" / "MD5E-s1--abc.nii.gz")
    write_series(tmp_path / "archive" / "4711", volume)
    (tmp_path / "images").mkdir()
    (tmp_path / "study").mkdir()
    os.symlink(tmp_path / "store" / "MD5E-s1--abc.nii.gz", tmp_path / "images" / "sub-01.nii.gz")
    os.symlink(tmp_path / "nowhere.nii.gz", tmp_path / "images" / "gone.nii.gz")
    os.symlink(tmp_path / "archive" / "4711", tmp_path / "study" / "series")
    gone, here = find_volumes([tmp_path / "images"])
    assert (gone.name, here.name, here.read().name) == ("gone", "sub-01", "sub-01")
    for found in (gone, *find_volumes([tmp_path / "images" / "gone.nii.gz"])):
        assert not found.files
        with pytest.raises(UnreadableError, match="a link to a file that is not there"):
            found.read()
    assert names(tmp_path / "study") == ["study"]


def test_kinds_that_are_not_taken_are_named(tmp_path, caplog):
    write_nifti(tmp_path / "a.nii")
    for name in ("b.mgz", "c.hdr", "c.img", "d.nii.bz2", "e.raw"):
        (tmp_path / name).write_bytes(b"x")
    assert names(tmp_path) == ["a"]
    assert "passed over b.mgz, c.hdr, c.img, d.nii.bz2: not kinds" in caplog.text
    with pytest.raises(UnreadableError, match=r"FreeSurfer's format; save it as \.nii\.gz"):
        find_volumes([tmp_path / "b.mgz"])[0].read()


def test_a_further_channel_is_no_case_of_its_own(tmp_path):
    write_nifti(
        tmp_path / "x_0000.nii.gz", tmp_path / "x_0001.nii.gz", tmp_path / "y_0001.nii", tmp_path / "z_0000.nii"
    )
    x, y, z = find_volumes([tmp_path], channels=1)
    assert (x.name, y.name, z.name) == ("x", "y_0001", "z") and z.read().name == "z"
    with pytest.raises(UnreadableError, match=r"the first of 2 channels .*x_0001.*the network takes one"):
        x.read()
    assert names(tmp_path) == ["x", "x_0001", "y_0001", "z"]  # labels have no channels


def test_a_case_without_one_of_its_channels_is_refused_alone(tmp_path):
    write_nifti(
        tmp_path / "x_0000.nii.gz", tmp_path / "x_0001.nii.gz", tmp_path / "y_0001.nii", tmp_path / "z_0000.nii"
    )
    x, y, z = find_volumes([tmp_path], channels=2)
    assert x.read().channels == 2 and (y.name, z.name) == ("y", "z")
    for case, there in ((y, "y_0001"), (z, "z_0000")):
        with pytest.raises(UnreadableError, match=rf"expected {case.name}_0000 to {case.name}_0001; found {there}"):
            case.read()
