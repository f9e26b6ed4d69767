import shutil

import numpy as np
import pytest

from mamba_unet.volumes.dicom.find import find_series, list_series
from mamba_unet.volumes.dicom.read import read_series
from mamba_unet.volumes.formats import UnreadableError

CORONAL = (1, 0, 0, 0, 0, -1)


def write_directory(file):
    from pydicom import Dataset
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, MediaStorageDirectoryStorage

    dataset = Dataset()
    dataset.FileSetID, dataset.DirectoryRecordSequence = "DISC", []
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.save_as(file, enforce_file_format=True)


def test_several_series_are_listed_by_number_and_other_objects_passed_over(write_series, tmp_path, volume):
    from pydicom.uid import GrayscaleSoftcopyPresentationStateStorage, SegmentationStorage

    write_series(tmp_path / "b", volume, SeriesNumber=12, SeriesDescription="T2", Modality="MR")
    write_series(
        tmp_path / "b" / "deeper", volume[:3], SeriesNumber=3, SeriesDescription="portal venous", Modality="CT"
    )
    write_series(tmp_path / "seg", volume, SOPClassUID=SegmentationStorage, Modality="SEG")
    write_series(tmp_path / "pr", volume, SOPClassUID=GrayscaleSoftcopyPresentationStateStorage, Modality="PR")
    write_series(tmp_path / "scout", volume, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    (tmp_path / "notes.txt").write_text("no DICOM")
    (tmp_path / "eight").write_bytes(b"\x08\x00 neither")
    write_directory(tmp_path / "DICOMDIR")
    series = find_series(tmp_path)
    assert list_series(series) == "  series 3 'portal venous' (CT, 3 images)\n  series 12 'T2' (MR, 4 images)"
    assert [read_series(one).grey.shape for one in series] == [(1, 3, 6, 5), (1, 4, 6, 5)]
    assert [one.images for one in find_series(tmp_path / "scout")] == [4]
    assert find_series(tmp_path / "seg") == []


def test_a_dose_report_beside_the_images_is_left_aside(read_only, write_series, tmp_path, volume):
    from pydicom.uid import SecondaryCaptureImageStorage

    def capture(dataset, t, d):
        del dataset.ImagePositionPatient, dataset.ImageOrientationPatient

    write_series(tmp_path / "image", volume)
    write_series(tmp_path / "report", volume[:1], edit=capture, SOPClassUID=SecondaryCaptureImageStorage)
    assert np.array_equal(read_only(tmp_path).grey[0], volume)
    assert [one.images for one in find_series(tmp_path / "report")] == [1]


def test_a_scout_inside_a_series_is_left_aside(read_only, write_series, tmp_path, volume):
    shared = {"SeriesInstanceUID": "1.2.3"}
    write_series(tmp_path / "a", volume, **shared)
    write_series(
        tmp_path / "b", volume[:1], (0, 1, 0, 0, 0, -1), ImageType=["DERIVED", "PRIMARY", "LOCALIZER"], **shared
    )
    assert np.array_equal(read_only(tmp_path).grey[0], volume)


def one_series_per_slice(write_series, folder, cine, **attributes):
    for z in range(cine.shape[1]):
        write_series(
            folder / str(z),
            cine[:, z : z + 1],
            origin=(0, 0, 8.0 * z),
            SeriesNumber=20 + z,
            FrameOfReferenceUID="1.2.3",
            StudyInstanceUID="1.2",
            **attributes,
        )


def test_cine_series_of_one_slice_each_are_joined_to_their_stack(write_series, tmp_path, volume):
    cine = np.stack([volume, volume + 1, volume + 2])
    one_series_per_slice(write_series, tmp_path, cine, SeriesDescription="SAX")
    write_series(tmp_path / "lax", cine[:, :1], CORONAL, SeriesNumber=30, FrameOfReferenceUID="1.2.3")
    series = find_series(tmp_path)
    assert list_series(series[:1]) == "  series 20 'SAX' (MR, 12 images, 4 series joined)"
    assert [one.number for one in series] == [20, 30]
    image = read_series(series[0])
    assert np.array_equal(image.grey, cine) and image.spacing_mm[0] == 8


def test_cine_slices_with_one_missing_stay_series_of_their_own(write_series, tmp_path, volume):
    one_series_per_slice(write_series, tmp_path, np.stack([volume, volume + 1]))
    for file in (tmp_path / "1").iterdir():
        file.unlink()
    assert [one.number for one in find_series(tmp_path)] == [20, 22, 23]


@pytest.mark.parametrize("phases", [1, 3])
def test_two_slices_alone_are_no_stack_however_far_apart(write_series, tmp_path, volume, phases):
    one_series_per_slice(write_series, tmp_path, np.stack([volume] * phases), SeriesDescription="SAX")
    for between in ("1", "2"):
        shutil.rmtree(tmp_path / between)
    assert [one.images for one in find_series(tmp_path)] == [phases, phases]


def test_a_damaged_file_spoils_only_its_own_series(write_series, tmp_path, volume):
    write_series(tmp_path / "whole", volume, SeriesNumber=1)
    file = write_series(tmp_path / "cut", volume, SeriesNumber=2)[1]
    file.write_bytes(file.read_bytes()[:-150])  # in the attributes before the pixels
    whole, cut = find_series(tmp_path)
    assert np.array_equal(read_series(whole).grey[0], volume)
    with pytest.raises(UnreadableError, match=rf"{file.name}: .*cut short"):
        read_series(cut)


def each_its_own(*keywords):
    def edit(dataset, t, d):
        from pydicom.uid import generate_uid

        for keyword in keywords:
            setattr(dataset, keyword, generate_uid())

    return edit


@pytest.mark.parametrize("phases", [1, 3])
@pytest.mark.parametrize(
    "keywords",
    [
        ("SeriesInstanceUID",),
        ("SeriesInstanceUID", "FrameOfReferenceUID"),
        ("SeriesInstanceUID", "StudyInstanceUID"),
        ("FrameOfReferenceUID",),
    ],
)
def test_images_with_a_uid_each_are_one_series_where_they_make_one_stack(
    read_only, write_series, tmp_path, volume, caplog, keywords, phases
):
    cine = np.stack([volume + t for t in range(phases)])
    write_series(tmp_path, cine, edit=each_its_own(*keywords))
    assert np.array_equal(read_only(tmp_path).grey, cine)
    what = "stored as a series each" if "SeriesInstanceUID" in keywords else "a frame of reference"
    assert what in caplog.text


def test_images_with_a_series_each_and_a_gap_say_so(write_series, tmp_path, volume):
    write_series(tmp_path, np.concatenate([volume, volume]), edit=lambda ds, t, d: d == 2 or each_its_own(
        "SeriesInstanceUID")(ds, t, d))  # fmt: skip
    series = find_series(tmp_path)
    assert len(series) == 7
    notes = " ".join(read_series(series[0]).notes)
    assert "others look like more of its series" in notes and "slices are missing" in notes


@pytest.mark.parametrize("uid", ["1.2.3", None])
def test_two_patients_are_never_one_series(write_series, tmp_path, volume, uid):
    for number in range(2):
        edit = None if uid else each_its_own("SeriesInstanceUID")
        shared = {"SeriesInstanceUID": uid, "StudyInstanceUID": "1.2", "FrameOfReferenceUID": "1.2"}
        origin = (0, 0, 20.0 * number)  # one even stack, if they were joined
        write_series(tmp_path / str(number), volume, origin=origin, PatientID=f"{number}", edit=edit, **shared)
    assert [one.images for one in find_series(tmp_path)] == [4, 4]


def test_a_dicomdir_stands_for_its_folder(read_only, write_series, tmp_path, volume):
    write_series(tmp_path / "IMAGES", volume)
    write_directory(tmp_path / "DICOMDIR")
    image = read_only(tmp_path / "DICOMDIR")
    assert np.array_equal(image.grey[0], volume) and image.name == tmp_path.name


def test_control_characters_of_a_description_are_shown_escaped(write_series, tmp_path, volume):
    write_series(tmp_path, volume, SeriesDescription="a\x07b")
    assert list_series(find_series(tmp_path)) == "  series 1 'a\\x07b' (MR, 4 images)"


def test_a_series_number_that_is_no_number_is_no_obstacle(read_only, write_series, tmp_path, volume):
    for file in write_series(tmp_path, volume, SeriesNumber=1234):
        file.write_bytes(file.read_bytes().replace(b"1234", b"12-4"))
    assert find_series(tmp_path)[0].number is None and np.array_equal(read_only(tmp_path).grey[0], volume)
