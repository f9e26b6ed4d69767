import io
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import apply_affine

from mamba_unet.volumes.dicom import series as dicom
from mamba_unet.volumes.dicom.series import find_series, list_series, read_series
from mamba_unet.volumes.formats import UnreadableError

ORIENTATIONS = {
    "axial": (1, 0, 0, 0, 1, 0),
    "axial, feet up": (1, 0, 0, 0, -1, 0),
    "coronal": (1, 0, 0, 0, 0, -1),
    "sagittal": (0, 1, 0, 0, 0, -1),
    "short axis": (0.612372, 0.612372, -0.5, -0.353553, -0.353553, -0.866025),
}


def read_only(path):
    (series,) = find_series(path)
    return read_series(series)


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_every_voxel_lies_where_another_reader_puts_it(write_series, tmp_path, volume, name):
    import SimpleITK as sitk

    row, column = np.reshape(ORIENTATIONS[name], (2, 3))
    column = column - row * (row @ column)
    orientation = (*row / np.linalg.norm(row), *column / np.linalg.norm(column))
    write_series(tmp_path, volume, orientation)
    scan = read_only(tmp_path)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path)))
    other = reader.Execute()

    assert scan.slices_along == 0 and scan.grey.shape == (1, *volume.shape) and scan.spacing_mm == (5, 1.5, 0.75)
    for x, y, z in [(0, 0, 0), (4, 0, 0), (0, 5, 0), (0, 0, 3), (1, 4, 2)]:
        point = apply_affine(scan.affine, (x, y, z)) * (-1, -1, 1)
        assert np.allclose(point, other.TransformIndexToPhysicalPoint((x, y, z)), atol=1e-4)
        assert scan.grey[0, z, y, x] == other[x, y, z] == volume[z, y, x]


def test_slices_are_in_the_order_of_their_positions_whatever_files_and_numbers_say(write_series, tmp_path, volume):
    def count_backwards(dataset, t, d):
        dataset.InstanceNumber = 10 - d
        dataset.SliceLocation = -d

    files = write_series(tmp_path, volume, edit=count_backwards)
    assert [file.name for file in files] != sorted(file.name for file in files)
    scan = read_only(tmp_path)
    assert np.array_equal(scan.grey[0], volume)
    assert [dataset.InstanceNumber for dataset in scan.dicom] == [10, 9, 8, 7]
    assert not any("PixelData" in dataset for dataset in scan.dicom)


def test_a_tilted_gantry_is_in_the_affine_and_the_spacing_keeps_volumes_right(write_series, tmp_path, volume):
    write_series(tmp_path, volume, shear_mm=(0, 1.5, 0))
    scan = read_only(tmp_path)
    assert np.allclose(scan.affine[:3, 2], (0, -1.5, 5))
    assert scan.spacing_mm == (5, 1.5, 0.75)
    assert np.isclose(np.prod(scan.spacing_mm), abs(np.linalg.det(scan.affine[:3, :3])))


def test_hounsfield_units_come_from_each_images_own_scale(write_series, tmp_path, volume):
    def scale(dataset, t, d):
        dataset.RescaleIntercept, dataset.RescaleSlope = -1024, 1

    stored = (volume + 500).astype(np.uint16) // 4
    write_series(tmp_path / "ct", stored, edit=scale, BitsStored=12, HighBit=11)
    scan = read_only(tmp_path / "ct")
    assert scan.grey.dtype == np.int16 and np.array_equal(scan.grey[0], stored.astype(int) - 1024)

    def scale_each(dataset, t, d):
        dataset.RescaleIntercept, dataset.RescaleSlope = d, 0.5 + d

    write_series(tmp_path / "pet", volume, edit=scale_each)
    scan = read_only(tmp_path / "pet")
    expected = volume * (0.5 + np.arange(4).reshape(4, 1, 1)) + np.arange(4).reshape(4, 1, 1)
    assert scan.grey.dtype == np.float32 and np.array_equal(scan.grey[0], expected.astype(np.float32))


@pytest.mark.parametrize(("dtype", "bits"), [(np.uint8, 8), (np.uint16, 12), (np.uint16, 16), (np.int16, 16)])
def test_integers_stay_integers_and_keep_their_extremes(write_series, tmp_path, dtype, bits):
    array = np.zeros((2, 3, 4), dtype)
    array[0, 0, 0], array[1, 2, 3] = np.iinfo(dtype).min, (1 << bits) - 1 if bits < 16 else np.iinfo(dtype).max
    write_series(tmp_path, array, BitsStored=bits, HighBit=bits - 1)
    scan = read_only(tmp_path)
    assert scan.grey.dtype == (np.uint16 if array.max() > 32767 else np.int16)
    assert np.array_equal(scan.grey[0], array)


def encode(writer_compressor, pixels):
    """A frame as SimpleITK's GDCM compresses it: its bytes, and the transfer syntax."""
    import pydicom
    import SimpleITK as sitk

    folder = Path(encode.folder)
    writer = sitk.ImageFileWriter()
    writer.SetUseCompression(True)
    writer.SetCompressor(writer_compressor)
    writer.SetFileName(str(folder / "encoded.dcm"))
    writer.Execute(sitk.GetImageFromArray(pixels[None]))
    return pydicom.dcmread(folder / "encoded.dcm")


@pytest.fixture
def compressed(write_series, tmp_path):
    """Writes a series whose frames another library has compressed."""

    def write(folder, array, compressor, relabel=None):
        encode.folder = tmp_path

        def edit(dataset, t, d):
            encoded = encode(compressor, array[d])
            dataset.PixelData = encoded.PixelData
            dataset["PixelData"].is_undefined_length = True
            dataset.file_meta.TransferSyntaxUID = relabel or encoded.file_meta.TransferSyntaxUID

        write_series(folder, array, edit=edit)
        return folder

    return write


@pytest.mark.parametrize("kind", [np.int16, np.uint16])
@pytest.mark.parametrize(
    ("compressor", "syntax"),
    [("JPEG", "1.2.840.10008.1.2.4.70"), ("JPEG", "1.2.840.10008.1.2.4.57"), ("JPEG2000", "1.2.840.10008.1.2.4.90")],
)
def test_lossless_jpeg_of_hospitals_comes_back_exactly(compressed, tmp_path, volume, compressor, syntax, kind):
    array = np.kron(volume, np.ones((1, 8, 8))).astype(np.int16)
    array = array if kind is np.int16 else (array + 500).astype(np.uint16)
    scan = read_only(compressed(tmp_path / "series", array, compressor, syntax))
    assert scan.dicom[0].file_meta.TransferSyntaxUID == syntax
    assert np.array_equal(scan.grey[0], array)


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.80"])
def test_run_lengths_and_jpeg_ls_come_back_exactly(write_series, tmp_path, volume, syntax):
    write_series(tmp_path, volume, syntax=syntax)
    assert np.array_equal(read_only(tmp_path).grey[0], volume)


def test_baseline_jpeg_comes_back_nearly(write_series, tmp_path):
    from PIL import Image
    from pydicom.encaps import encapsulate

    array = np.linspace(0, 255, 3 * 32 * 48).reshape(3, 32, 48).astype(np.uint8)

    def to_jpeg(dataset, t, d):
        stream = io.BytesIO()
        Image.fromarray(array[d]).save(stream, "JPEG", quality=98)
        dataset.PixelData = encapsulate([stream.getvalue()])
        dataset["PixelData"].is_undefined_length = True
        dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.50"

    write_series(tmp_path, array, edit=to_jpeg)
    assert np.abs(read_only(tmp_path).grey[0] - array.astype(int)).max() <= 3


def test_a_transfer_syntax_that_nothing_decodes_is_named(write_series, tmp_path, volume):
    from pydicom.encaps import encapsulate

    def to_ht(dataset, t, d):
        dataset.PixelData = encapsulate([b"no codestream"])
        dataset["PixelData"].is_undefined_length = True
        dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.201"

    write_series(tmp_path, volume, edit=to_ht)
    with pytest.raises(UnreadableError, match=r"IM000\d: its pixels \(High-Throughput JPEG 2000.* cannot be decoded"):
        read_only(tmp_path)


def test_a_zip_is_read_in_memory_and_its_names_lead_nowhere(write_series, tmp_path, volume):
    files = write_series(tmp_path / "files", volume)
    with zipfile.ZipFile(tmp_path / "scan.zip", "w") as archive:
        for file in files:
            archive.write(file, f"../../{file.name}")
        archive.writestr("../readme.txt", "hello")
    before = sorted(tmp_path.rglob("*"))
    scan = read_only(tmp_path / "scan.zip")
    assert scan.name == "scan" and np.array_equal(scan.grey[0], volume)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_zip_that_unpacks_too_large_is_refused_before_it_is(write_series, tmp_path, volume, monkeypatch):
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(1 << 22))
    monkeypatch.setattr(dicom, "MAX_UNZIPPED_BYTES", 1 << 20)
    with pytest.raises(UnreadableError, match=r"bomb\.zip: unpacks to .* unpack it to a folder"):
        find_series(tmp_path / "bomb.zip")


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


def test_a_dose_report_beside_the_scan_is_left_aside(write_series, tmp_path, volume):
    from pydicom.uid import SecondaryCaptureImageStorage

    def capture(dataset, t, d):
        del dataset.ImagePositionPatient, dataset.ImageOrientationPatient

    write_series(tmp_path / "scan", volume)
    write_series(tmp_path / "report", volume[:1], edit=capture, SOPClassUID=SecondaryCaptureImageStorage)
    assert np.array_equal(read_only(tmp_path).grey[0], volume)
    assert [one.images for one in find_series(tmp_path / "report")] == [1]


def test_a_scout_inside_a_series_is_left_aside(write_series, tmp_path, volume):
    shared = {"SeriesInstanceUID": "1.2.3"}
    write_series(tmp_path / "a", volume, **shared)
    write_series(
        tmp_path / "b", volume[:1], (0, 1, 0, 0, 0, -1), ImageType=["DERIVED", "PRIMARY", "LOCALIZER"], **shared
    )
    assert np.array_equal(read_only(tmp_path).grey[0], volume)


def test_files_without_preamble_and_second_copies_are_read_once(write_series, tmp_path, volume):
    files = write_series(tmp_path, volume)
    for file in files:
        (tmp_path / f"{file.name}.copy").write_bytes(file.read_bytes())
    import pydicom

    for file in files:
        dataset = pydicom.dcmread(file)
        del dataset.file_meta
        dataset.preamble = None
        dataset.save_as(file, implicit_vr=True, little_endian=True)
    scan = read_only(tmp_path)
    assert np.array_equal(scan.grey[0], volume)


def test_one_file_is_one_slice_with_its_thickness(write_series, tmp_path, volume):
    files = write_series(tmp_path, volume)
    scan = read_only(files[2])
    assert scan.grey.shape == (1, 1, 6, 5) and np.array_equal(scan.grey[0, 0], volume[2])
    assert scan.spacing_mm == (2.5, 1.5, 0.75) and scan.affine[2, 3] == 110


@pytest.mark.parametrize("tells", ["TriggerTime", "InstanceNumber"])
def test_a_cine_is_frames_of_volumes_in_the_order_of_time(write_series, tmp_path, volume, tells):
    cine = np.stack([volume, volume + 1, volume + 2])

    def only(dataset, t, d):
        if tells == "InstanceNumber":
            del dataset.TriggerTime
            dataset.InstanceNumber = 100 * d + t

    write_series(tmp_path, cine, edit=only)
    scan = read_only(tmp_path)
    assert np.array_equal(scan.grey, cine)
    assert len(scan.dicom) == 12 and scan.dicom[4].ImagePositionPatient == scan.dicom[0].ImagePositionPatient


@pytest.mark.parametrize("phases", [1, 3])
def test_an_enhanced_object_is_read_by_each_frames_own_place(write_enhanced, tmp_path, volume, phases):
    cine = np.stack([volume + phase for phase in range(phases)])
    write_enhanced(tmp_path / "one.dcm", cine, ORIENTATIONS["coronal"])
    scan = read_only(tmp_path)
    assert np.array_equal(scan.grey, cine - 10) and scan.spacing_mm == (5, 1.5, 0.75)
    # a coronal step goes to the back: x to the left, y down, z towards the back
    assert np.allclose(scan.affine, [[-0.75, 0, 0, 40], [0, 0, -5, -30], [0, -1.5, 0, 100], [0, 0, 0, 1]])


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
    write_series(tmp_path / "lax", cine[:, :1], ORIENTATIONS["coronal"], SeriesNumber=30, FrameOfReferenceUID="1.2.3")
    series = find_series(tmp_path)
    assert list_series(series[:1]) == "  series 20 'SAX' (MR, 12 images, 4 series joined)"
    assert [one.number for one in series] == [20, 30]
    scan = read_series(series[0])
    assert np.array_equal(scan.grey, cine) and scan.spacing_mm[0] == 8


def test_cine_slices_with_one_missing_stay_series_of_their_own(write_series, tmp_path, volume):
    one_series_per_slice(write_series, tmp_path, np.stack([volume, volume + 1]))
    for file in (tmp_path / "1").iterdir():
        file.unlink()
    assert [one.number for one in find_series(tmp_path)] == [20, 22, 23]


def leave_out(number):
    return lambda dataset, t, d: d == number


def repeat(dataset, t, d):
    if d == 2:
        dataset.ImagePositionPatient = [-40, 30, 105]


def turn(dataset, t, d):
    if d == 2:
        dataset.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]


def coarser(dataset, t, d):
    if d == 2:
        dataset.PixelSpacing = [2, 2]


def drift(dataset, t, d):
    if d == 2:
        dataset.ImagePositionPatient = [-40, 33, 110]


def elsewhere(dataset, t, d):
    if d == 2:
        dataset.FrameOfReferenceUID = "1.2.3"


REFUSALS = {
    "a gap": (leave_out(2), {}, r"slices are missing: .*105\.00\) mm .*115\.00\) mm .* are 10\.00 mm apart"),
    "a double": (repeat, {}, r"2 images at the position \(-40\.00, 30\.00, 105\.00\) mm"),
    "a turn": (turn, {}, "mixed orientation"),
    "pixel sizes": (coarser, {}, "mixed pixel spacing"),
    "two frames of reference": (elsewhere, {}, "mixed frames of reference"),
    "a drift": (drift, {}, "no even line"),
    "colour": (None, {"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3}, "colour image"),
    "palette": (None, {"PhotometricInterpretation": "PALETTE COLOR"}, "colour image"),
    "inverted": (None, {"PhotometricInterpretation": "MONOCHROME1"}, "MONOCHROME1.*NIfTI"),
    "a screen": (
        lambda dataset, t, d: dataset.__delattr__("ImagePositionPatient"),
        {},
        "ImagePositionPatient is absent",
    ),
    "no spacing": (None, {"PixelSpacing": None}, "PixelSpacing is absent"),
    "skew axes": (None, {"ImageOrientationPatient": [1, 0, 0, 0.5, 0.5, 0]}, "right angles"),
    "frames": (None, {"NumberOfFrames": 2}, "2 frames without a position of each"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_is_no_even_stack_of_grey_images_is_refused_by_name(write_series, tmp_path, volume, name):
    edit, attributes, message = REFUSALS[name]
    write_series(tmp_path / "series", np.concatenate([volume, volume]), edit=edit, **attributes)
    (series,) = find_series(tmp_path)
    with pytest.raises(UnreadableError, match=message) as refused:
        read_series(series)
    assert refused.value.file.is_relative_to(tmp_path)


def test_two_echoes_are_no_cine(write_series, tmp_path, volume):
    def echo(dataset, t, d):
        dataset.EchoTime = (2.5, 5.0)[t]

    write_series(tmp_path, np.stack([volume, volume]), edit=echo)
    with pytest.raises(UnreadableError, match=r"differ in EchoTime \(2\.5, 5\.0\).*folder of its own"):
        read_only(tmp_path)


def test_a_cine_with_a_lost_phase_is_refused(write_series, tmp_path, volume):
    write_series(tmp_path, np.stack([volume] * 3), edit=lambda dataset, t, d: (t, d) == (1, 2))
    with pytest.raises(UnreadableError, match=r"2 images at the position .*, but 3 at most others"):
        read_only(tmp_path)


def test_positions_written_with_few_decimals_are_even(write_series, tmp_path, volume):
    def rounded(dataset, t, d):
        dataset.ImagePositionPatient = [-40, 30, round(100 + 0.625 * d, 1)]

    write_series(tmp_path, np.concatenate([volume] * 4), edit=rounded)
    assert read_only(tmp_path).spacing_mm[0] == pytest.approx(0.625, abs=0.01)


@pytest.mark.parametrize("left", [200, 600, -100, -20])
def test_a_file_that_is_cut_short_is_named(write_series, tmp_path, volume, left):
    file = write_series(tmp_path, volume)[1]
    file.write_bytes(file.read_bytes()[:left])
    with pytest.raises(UnreadableError, match=file.name):
        read_only(tmp_path)


def test_a_damaged_file_spoils_only_its_own_series(write_series, tmp_path, volume):
    write_series(tmp_path / "whole", volume, SeriesNumber=1)
    file = write_series(tmp_path / "cut", volume, SeriesNumber=2)[1]
    file.write_bytes(file.read_bytes()[:-150])  # in the attributes before the pixels
    whole, cut = find_series(tmp_path)
    assert np.array_equal(read_series(whole).grey[0], volume)
    with pytest.raises(UnreadableError, match=rf"{file.name}: .*cut short"):
        read_series(cut)


def test_a_path_that_is_not_there_and_a_folder_without_scans(tmp_path):
    with pytest.raises(UnreadableError, match="no such file or folder"):
        find_series(tmp_path / "nothing")
    (tmp_path / "a.txt").write_text("text")
    assert find_series(tmp_path) == []


def test_a_real_ct_written_as_dicom_reads_back_where_it_was(write_series, tmp_path, ct_dir):
    image = nib.load(ct_dir / "ct.nii.gz")
    array = np.asarray(image.dataobj).transpose(2, 1, 0)  # rows run right to left, columns back to front: RAS
    spacing = image.header.get_zooms()[::-1]
    right, front, bottom = image.affine[:3, 3]

    def as_ct(dataset, t, d):
        dataset.Modality, dataset.RescaleSlope, dataset.RescaleIntercept = "CT", 1, -1024

    stored = array.astype(np.int16) + np.int16(1024)
    write_series(tmp_path, stored, (-1, 0, 0, 0, -1, 0), spacing, (-right, -front, bottom), edit=as_ct)
    scan = read_only(tmp_path)
    assert np.array_equal(scan.grey[0], array) and np.allclose(scan.affine, image.affine, atol=1e-4)
    assert scan.spacing_mm == spacing
