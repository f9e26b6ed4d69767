import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import apply_affine

from mamba_unet.volumes.formats import UnreadableError

ORIENTATIONS = {
    "axial": (1, 0, 0, 0, 1, 0),
    "axial, feet up": (1, 0, 0, 0, -1, 0),
    "coronal": (1, 0, 0, 0, 0, -1),
    "sagittal": (0, 1, 0, 0, 0, -1),
    "short axis": (0.612372, 0.612372, -0.5, -0.353553, -0.353553, -0.866025),
}


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_every_voxel_lies_where_another_reader_puts_it(read_only, write_series, tmp_path, volume, name):
    import SimpleITK as sitk

    row, column = np.reshape(ORIENTATIONS[name], (2, 3))
    column = column - row * (row @ column)
    orientation = (*row / np.linalg.norm(row), *column / np.linalg.norm(column))
    write_series(tmp_path, volume, orientation)
    image = read_only(tmp_path)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path)))
    other = reader.Execute()

    assert image.slices_along == 0 and image.grey.shape == (1, *volume.shape) and image.spacing_mm == (5, 1.5, 0.75)
    for x, y, z in [(0, 0, 0), (4, 0, 0), (0, 5, 0), (0, 0, 3), (1, 4, 2)]:
        point = apply_affine(image.affine, (x, y, z)) * (-1, -1, 1)
        assert np.allclose(point, other.TransformIndexToPhysicalPoint((x, y, z)), atol=1e-4)
        assert image.grey[0, z, y, x] == other[x, y, z] == volume[z, y, x]


def test_slices_are_in_the_order_of_their_positions_whatever_files_and_numbers_say(
    read_only, write_series, tmp_path, volume
):
    def count_backwards(dataset, t, d):
        dataset.InstanceNumber = 10 - d
        dataset.SliceLocation = -d

    files = write_series(tmp_path, volume, edit=count_backwards)
    assert [file.name for file in files] != sorted(file.name for file in files)
    image = read_only(tmp_path)
    assert np.array_equal(image.grey[0], volume)
    assert [dataset.InstanceNumber for dataset in image.dicom] == [10, 9, 8, 7]
    assert not any("PixelData" in dataset for dataset in image.dicom)


def test_a_tilted_gantry_is_in_the_affine_and_the_spacing_keeps_volumes_right(
    read_only, write_series, tmp_path, volume
):
    write_series(tmp_path, volume, shear_mm=(0, 1.5, 0))
    image = read_only(tmp_path)
    assert np.allclose(image.affine[:3, 2], (0, -1.5, 5))
    assert image.spacing_mm == (5, 1.5, 0.75)
    assert np.isclose(np.prod(image.spacing_mm), abs(np.linalg.det(image.affine[:3, :3])))


def test_hounsfield_units_come_from_each_images_own_scale(read_only, write_series, tmp_path, volume):
    def scale(dataset, t, d):
        dataset.RescaleIntercept, dataset.RescaleSlope = -1024, 1

    stored = (volume + 500).astype(np.uint16) // 4
    write_series(tmp_path / "ct", stored, edit=scale, BitsStored=12, HighBit=11)
    image = read_only(tmp_path / "ct")
    assert image.grey.dtype == np.int16 and np.array_equal(image.grey[0], stored.astype(int) - 1024)

    def scale_each(dataset, t, d):
        dataset.RescaleIntercept, dataset.RescaleSlope = d, 0.5 + d

    write_series(tmp_path / "pet", volume, edit=scale_each)
    image = read_only(tmp_path / "pet")
    expected = volume * (0.5 + np.arange(4).reshape(4, 1, 1)) + np.arange(4).reshape(4, 1, 1)
    assert image.grey.dtype == np.float32 and np.array_equal(image.grey[0], expected.astype(np.float32))


@pytest.mark.parametrize(("dtype", "bits"), [(np.uint8, 8), (np.uint16, 12), (np.uint16, 16), (np.int16, 16)])
def test_integers_stay_integers_and_keep_their_extremes(read_only, write_series, tmp_path, dtype, bits):
    array = np.zeros((2, 3, 4), dtype)
    array[0, 0, 0], array[1, 2, 3] = np.iinfo(dtype).min, (1 << bits) - 1 if bits < 16 else np.iinfo(dtype).max
    write_series(tmp_path, array, BitsStored=bits, HighBit=bits - 1)
    image = read_only(tmp_path)
    assert image.grey.dtype == (np.uint16 if array.max() > 32767 else np.int16)
    assert np.array_equal(image.grey[0], array)


def test_one_file_is_one_slice_with_its_thickness(read_only, write_series, tmp_path, volume):
    files = write_series(tmp_path, volume)
    image = read_only(files[2])
    assert image.grey.shape == (1, 1, 6, 5) and np.array_equal(image.grey[0, 0], volume[2])
    assert image.spacing_mm == (2.5, 1.5, 0.75) and image.affine[2, 3] == 110 and not image.guessed_size


@pytest.mark.parametrize("phases", [1, 3])
def test_an_enhanced_object_is_read_by_each_frames_own_place(read_only, write_enhanced, tmp_path, volume, phases):
    cine = np.stack([volume + phase for phase in range(phases)])
    write_enhanced(tmp_path / "one.dcm", cine, ORIENTATIONS["coronal"])
    image = read_only(tmp_path)
    assert np.array_equal(image.grey, cine - 10) and image.spacing_mm == (5, 1.5, 0.75)
    # a coronal step goes to the back: x to the left, y down, z towards the back
    assert np.allclose(image.affine, [[-0.75, 0, 0, 40], [0, 0, -5, -30], [0, -1.5, 0, 100], [0, 0, 0, 1]])


def test_private_groups_of_a_frame_tell_neither_its_place_nor_its_scale(read_only, write_enhanced, tmp_path, volume):
    """Philips has a position of its own in (2005,140F), which lies behind the public groups."""
    from pydicom import Dataset, dcmread

    write_enhanced(tmp_path / "one.dcm", volume[None], ORIENTATIONS["coronal"])
    expected, dataset = read_only(tmp_path), dcmread(tmp_path / "one.dcm")
    for number, group in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        other = Dataset()
        other.ImagePositionPatient, other.RescaleSlope, other.RescaleIntercept = [0, 5.0 * number, 7], 3, 50
        group.private_block(0x2005, "Philips MR Imaging DD 005", create=True).add_new(0x0F, "SQ", [other])
    dataset.save_as(tmp_path / "one.dcm")
    image = read_only(tmp_path)
    assert np.array_equal(image.grey, expected.grey) and np.allclose(image.affine, expected.affine)


def test_a_scale_beside_the_groups_of_frames_is_taken_where_these_tell_none(
    read_only, write_enhanced, tmp_path, volume, caplog
):
    from pydicom import dcmread

    write_enhanced(tmp_path / "one.dcm", volume[None], ORIENTATIONS["coronal"])
    dataset = dcmread(tmp_path / "one.dcm")
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
    dataset.save_as(tmp_path / "one.dcm")
    assert np.array_equal(read_only(tmp_path).grey[0], volume - 10) and not caplog.records  # that of the groups
    del dataset.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence
    dataset.save_as(tmp_path / "one.dcm")
    assert np.array_equal(read_only(tmp_path).grey[0], volume - 1024)
    assert "for the whole file alone (RescaleSlope 1.0, RescaleIntercept -1024.0)" in caplog.text


@pytest.mark.parametrize("left", [200, 600, -100, -20])
def test_a_file_that_is_cut_short_is_named(read_only, write_series, tmp_path, volume, left):
    file = write_series(tmp_path, volume)[1]
    file.write_bytes(file.read_bytes()[:left])
    with pytest.raises(UnreadableError, match=file.name):
        read_only(tmp_path)


def test_a_real_ct_written_as_dicom_reads_back_where_it_was(read_only, write_series, tmp_path, ct_dir):
    ct = nib.load(ct_dir / "ct.nii.gz")
    array = np.asarray(ct.dataobj).transpose(2, 1, 0)  # rows run right to left, columns back to front: RAS
    spacing = ct.header.get_zooms()[::-1]
    right, front, bottom = ct.affine[:3, 3]

    def as_ct(dataset, t, d):
        dataset.Modality, dataset.RescaleSlope, dataset.RescaleIntercept = "CT", 1, -1024

    stored = array.astype(np.int16) + np.int16(1024)
    write_series(tmp_path, stored, (-1, 0, 0, 0, -1, 0), spacing, (-right, -front, bottom), edit=as_ct)
    image = read_only(tmp_path)
    assert np.array_equal(image.grey[0], array) and np.allclose(image.affine, ct.affine, atol=1e-4)
    assert image.spacing_mm == spacing
