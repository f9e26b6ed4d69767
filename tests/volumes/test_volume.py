from dataclasses import replace
from itertools import permutations, product

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from mamba_unet.volumes.formats import UnreadableError
from mamba_unet.volumes.geometry import Turn, slice_axis, turn_to_network
from mamba_unet.volumes.read import as_volume
from mamba_unet.volumes.volume import Volume

ORIENTATIONS = ["".join(codes) for axes in permutations(("LR", "PA", "IS")) for codes in product(*axes)]
TILT = Rotation.from_euler("xyz", [9, -8, 11], degrees=True).as_matrix()


def scan_in(orientation: str, tilt: np.ndarray | None = None) -> Volume:
    """The same body in any order of its axes: 5 slices up, 16 rows to the back, 20 columns to the left.

    It is drawn once, axes "SPL", with a box in a corner, and brought into the orientation by nibabel.
    """
    body = np.zeros((20, 16, 5), np.float32)  # X Y Z
    body[1:6, 9:14, 1] = 7
    body[2, 3, 4] = 3
    affine = np.diag([-1.5, -1.4, 8.0, 1.0])
    affine[:3, 3] = 11, -22, 33
    image = nib.Nifti1Image(body, affine)
    codes = nib.orientations.axcodes2ornt(orientation[::-1])
    image = image.as_reoriented(nib.orientations.ornt_transform(nib.io_orientation(affine), codes))
    if tilt is not None:
        turned = np.eye(4)
        turned[:3, :3] = tilt
        image = nib.Nifti1Image(image.get_fdata(dtype=np.float32), turned @ image.affine)
    return Volume.from_nibabel(image, "body")


@pytest.mark.parametrize("tilt", [None, TILT], ids=["straight", "oblique"])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_the_network_sees_the_body_as_in_training_and_its_answer_goes_back_to_the_corner(orientation, tilt):
    scan, as_trained = scan_in(orientation, tilt), scan_in("SPL")
    assert scan.orientation == orientation
    turn = turn_to_network(scan, "SPL")
    seen = turn.apply(scan.array)
    assert seen.flags.c_contiguous and np.array_equal(seen, as_trained.array)
    label = turn.undo((seen > 5).astype(np.uint8))
    assert label.flags.c_contiguous and np.array_equal(label, scan.array > 5)


@pytest.mark.parametrize("training", ["SPL", "IPL", "SLP", "IRA"])
def test_any_training_orientation_is_reached_where_its_slices_are_the_scans(training):
    scan = scan_in("ARI")  # slices across W
    turned = turn_to_network(scan, training).apply(scan.array)
    assert np.array_equal(turned, scan_in(training).array)


@given(
    axes=st.permutations(range(3)), flipped=st.tuples(*[st.booleans()] * 3), shape=st.tuples(*[st.integers(1, 4)] * 5)
)
@settings(max_examples=60, deadline=None)
def test_undo_is_the_inverse_of_apply_over_the_last_three_axes(axes, flipped, shape):
    array = np.arange(np.prod(shape)).reshape(shape)  # classes and frames in front
    turn = Turn(tuple(axes), flipped)
    assert turn.apply(array).shape[2:] == tuple(shape[2 + axis] for axis in axes)
    assert np.array_equal(turn.undo(turn.apply(array)), array)


def test_slices_of_another_direction_are_put_first_only_and_warned_of(caplog):
    coronal = scan_in("PSL")  # spacing says axial still; a caller insists on coronal
    assert turn_to_network(replace(coronal, slices_along=0), "SPL") == Turn((0, 1, 2))
    assert turn_to_network(replace(coronal, slices_along=2), "SPL") == Turn((2, 0, 1))
    assert "body: its slices are coronal, the network was trained on axial ones" in caplog.text
    assert "sagittal" in caplog.text and len(caplog.records) == 2


def test_without_directions_only_the_slicing_axis_is_moved(caplog):
    assert turn_to_network(Volume.from_array(np.zeros((9, 8, 7)), (1, 5, 1)), "SPL") == Turn((1, 0, 2))
    assert turn_to_network(scan_in("RAI"), None) == Turn((2, 0, 1))
    assert not caplog.records


@pytest.mark.parametrize(
    ("shape", "spacing_mm", "orientation", "slices_along", "expected"),
    [
        ((9, 1, 7), (8, 1, 1), "SPL", 2, 2),  # what the source says goes first
        ((9, 1, 7), (8, 1, 1), "SPL", None, 1),  # a single slice
        ((9, 8, 7), (1, 1, 1.5), "SPL", None, 2),  # the through-plane spacing
        ((9, 1, 1), (1, 1, 1.5), "SPL", None, 2),
        ((9, 8, 7), (1, 1, 1.49), "SPL", None, 0),  # too little: where training has its slices
        ((9, 8, 7), (1, 1, 1), "LPS", None, 2),
        ((9, 8, 7), (1, 1, 1), "RIA", None, 2),  # up to the sign
        ((9, 8, 7), (1, 1, 1), "ARS", None, 1),
        ((9, 8, 7), (2, 2, 1), "PLI", None, 1),  # two thick axes are no slices
        ((9, 8, 7), (1, 1, 1), None, None, 0),
    ],
)
def test_the_slicing_axis(shape, spacing_mm, orientation, slices_along, expected):
    affine = np.diag([*spacing_mm[::-1], 1.0])  # "SAR"
    scan = Volume("a", np.zeros((1, 1, *shape)), affine, slices_along=slices_along)
    assert slice_axis(scan, orientation) == expected


def test_the_slicing_axis_of_an_array_is_its_first_unless_its_spacing_tells():
    assert slice_axis(Volume.from_array(np.zeros((9, 8, 7))), "SPL") == 0
    assert slice_axis(Volume.from_array(np.zeros((9, 8, 7)), (1, 1, 3)), "SPL") == 2
    assert slice_axis(Volume.from_array(np.zeros((8, 7))), "SPL") == 0


@pytest.mark.parametrize("shape", [(4, 3), (2, 4, 3), (5, 2, 4, 3)])
def test_arrays_of_two_to_four_axes_are_frames_of_volumes(shape):
    array = np.arange(np.prod(shape), dtype=">i2").reshape(shape)
    scan = Volume.from_array(array, spacing_mm=[8, 1.5, 1.5], name="a")
    assert scan.grey.shape == (1, 1, 1, *shape)[-4:] and scan.array.dtype == np.int16
    assert scan.array.dtype.isnative and np.array_equal(scan.array.reshape(shape), array)
    assert scan.spacing_mm == (8.0, 1.5, 1.5) and scan.orientation is None and scan.affine is None


@pytest.mark.parametrize(
    "array", [np.zeros(3), np.zeros((2, 2, 2, 2, 2)), np.zeros((0, 3)), np.zeros((2, 2), complex), np.array([["a"]])]
)
def test_other_arrays_are_refused(array):
    with pytest.raises(ValueError, match=r"my scan: array of shape .* expected real numbers"):
        Volume.from_array(array, name="my scan")


@pytest.mark.parametrize("spacing_mm", [(1, 1), (1, 1, 0), (1, -1, 1), (1, 1, float("nan"))])
def test_other_spacings_are_refused(spacing_mm):
    with pytest.raises(ValueError, match="three positive sizes in mm, of D, H, W"):
        Volume.from_array(np.zeros((4, 3)), spacing_mm)


def itk_image(axes: int) -> sitk.Image:
    """An ITK image of so many axes, turned and shifted, no two voxels alike."""
    shape = (6, 5, 4, 3)[:axes]
    image = sitk.GetImageFromArray(np.arange(np.prod(shape), dtype=np.int16).reshape(shape[::-1]), isVector=False)
    direction = np.eye(axes)
    turn = np.roll(TILT, 1, axis=1) * [1, 1, -1] if axes > 2 else np.array([[0.6, 0.8], [0.8, -0.6]])
    direction[: len(turn), : len(turn)] = turn
    image.SetDirection(direction.ravel().tolist())
    image.SetSpacing([1.2, 2.3, 3.4, 0.05][:axes])
    image.SetOrigin([-10.0, 20.0, 30.0, 0.0][:axes])
    return image


@pytest.mark.parametrize("axes", [2, 3, 4])
def test_an_itk_image_lies_where_itk_says(axes):
    image = itk_image(axes)
    scan = Volume.from_sitk(image, "a")
    assert scan.grey.shape == (1, 1, *image.GetSize()[::-1])[-4:]
    x, y, z, t = index = (5, 2, 3 * (axes > 2), 2 * (axes > 3))
    assert scan.grey[t, z, y, x] == image[index[:axes]]
    left, posterior, superior = (*image.TransformIndexToPhysicalPoint(index[:axes]), 0)[:3]
    assert scan.affine @ [x, y, z, 1] == pytest.approx([-left, -posterior, superior, 1])
    assert scan.spacing_mm == ((3.4 if axes > 2 else 1.0), 2.3, 1.2) and scan.guessed_size == (axes == 2)


def test_an_itk_image_lies_where_it_does_as_nifti(tmp_path):
    image = itk_image(3)
    sitk.WriteImage(image, tmp_path / "a.nii.gz")
    nifti = Volume.from_nibabel(nib.load(tmp_path / "a.nii.gz"))
    scan = Volume.from_sitk(image)
    assert scan.affine == pytest.approx(nifti.affine, abs=1e-5)
    assert scan.orientation == nifti.orientation and np.array_equal(scan.array, nifti.array)


@pytest.mark.parametrize("pixel", [sitk.sitkVectorFloat32, sitk.sitkComplexFloat32, sitk.sitkLabelUInt8])
def test_itk_pixels_that_are_no_single_number_are_refused_by_name(pixel):
    image = sitk.Image([4, 3, 2], pixel)
    with pytest.raises(ValueError, match=r"b: pixels are (vector|complex|label).* expected one real number"):
        Volume.from_sitk(image, "b")


def test_nifti_of_two_to_four_axes_scaled(tmp_path):
    for shape, frames in (
        ((5, 4), (1, 1, 4, 5)),
        ((5, 4, 3), (1, 3, 4, 5)),
        ((5, 4, 3, 1, 1), (1, 3, 4, 5)),
        ((5, 4, 3, 2), (2, 3, 4, 5)),
        ((5, 4, 1, 2), (2, 1, 4, 5)),
    ):
        stored = np.arange(np.prod(shape), dtype=np.int16).reshape(shape)
        image = nib.Nifti1Image(stored, np.diag([1.25, 1.5, 10, 1]))
        image.header.set_slope_inter(2, -1024)
        nib.save(image, tmp_path / "a.nii")
        scan = Volume.from_nibabel(nib.load(tmp_path / "a.nii"))
        assert scan.grey.shape == frames and scan.stored_shape == shape
        values = 2.0 * stored - 1024
        assert np.array_equal(scan.grey.T.reshape(shape), values)
        assert scan.spacing_mm[1:] == (1.5, 1.25)


def test_a_header_in_metres_or_microns_is_taken_in_millimetres(tmp_path):
    for unit, size in (("meter", 0.0015), ("mm", 1.5), ("micron", 1500), ("unknown", 1.5)):
        affine = np.diag([size, size, 4 * size, 1])
        affine[:3, 3] = np.array([10, 20, 30]) * size / 1.5
        image = nib.Nifti1Image(np.zeros((4, 3, 2), np.int16), affine)
        image.header.set_xyzt_units(unit)
        assert Volume.from_nibabel(image).spacing_mm == (6.0, 1.5, 1.5), unit
        assert Volume.from_nibabel(image).affine[:3, 3] == pytest.approx([10, 20, 30], rel=1e-5), unit


def test_a_nibabel_image_of_another_format_or_without_an_affine_is_taken():
    mgh = nib.MGHImage(np.zeros((4, 3, 2), np.float32), np.diag([-1.0, 2, 3, 1]))
    scan = Volume.from_nibabel(mgh)
    assert scan.header is None and scan.orientation == "SAL" and scan.spacing_mm == (3.0, 2.0, 1.0)
    assert Volume.from_nibabel(nib.Nifti1Image(np.zeros((4, 3, 2), np.int16), None)).spacing_mm == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("array", "affine", "reason"),
    [
        (np.zeros((4, 3, 2, 2, 3, 2), np.int16), np.eye(4), "frames of it over a fourth axis"),
        (np.zeros((4, 3, 2), np.complex64), np.eye(4), "complex64: expected one real number per voxel"),
        (np.zeros((4, 3, 2), np.int16), np.diag([1.0, 1, 0, 1]), "singular"),
        (np.zeros((4, 3, 2), np.int16), np.diag([1.0, 1, np.nan, 1]), "singular"),
    ],
)
def test_nibabel_images_that_are_no_scan_are_refused(array, affine, reason):
    image = nib.Nifti1Image(array, np.eye(4))
    image._affine = affine
    with pytest.raises(UnreadableError, match=f"c: .*{reason}"):
        Volume.from_nibabel(image, "c")


def test_whatever_holds_the_image_gives_the_same_scan(tmp_path):
    image = itk_image(3)
    sitk.WriteImage(image, tmp_path / "a.mha")
    nifti = nib.Nifti1Image(sitk.GetArrayFromImage(image).T, Volume.from_sitk(image).affine)
    nib.save(nifti, tmp_path / "a.nii.gz")
    for thing in (image, nifti, tmp_path / "a.mha", str(tmp_path / "a.nii.gz"), Volume.from_sitk(image)):
        scan = as_volume(thing)
        assert np.array_equal(scan.grey[0], sitk.GetArrayFromImage(image))
        assert scan.affine == pytest.approx(nifti.affine, abs=1e-5)
    assert as_volume(tmp_path / "a.mha").name == "a" and as_volume(np.zeros((4, 3))).name == "image"


def test_sizes_that_a_header_does_not_tell_are_a_guess(tmp_path):
    sitk.WriteImage(itk_image(3), tmp_path / "a.mha")
    image = nib.Nifti1Image(np.zeros((4, 3, 2), np.int16), None)
    image.header.set_xyzt_units("mm")
    nib.save(image, tmp_path / "a.nii")
    assert not as_volume(tmp_path / "a.mha").guessed_size and not as_volume(tmp_path / "a.nii").guessed_size

    header = (tmp_path / "a.mha").read_bytes()
    (tmp_path / "a.mha").write_bytes(header.replace(b"ElementSpacing", b"ElementNothing"))
    stored = bytearray((tmp_path / "a.nii").read_bytes())
    stored[80:92] = bytes(12)  # pixdim of x, y and z
    (tmp_path / "a.nii").write_bytes(stored)
    assert as_volume(tmp_path / "a.mha").guessed_size and as_volume(tmp_path / "a.nii").guessed_size


def test_a_spacing_is_for_images_that_have_none():
    assert as_volume(np.zeros((4, 3)), spacing_mm=(8, 1, 2)).spacing_mm == (8.0, 1.0, 2.0)
    with pytest.raises(ValueError, match=r"body: spacing_mm=\(1, 1, 1\), but the image says \(8\.0, 1\.4, 1\.5\)"):
        as_volume(scan_in("SPL"), spacing_mm=(1, 1, 1))


def test_something_else_is_no_image():
    with pytest.raises(ValueError, match="an image of type list; expected a path, a numpy array"):
        as_volume([[1, 2], [3, 4]])
