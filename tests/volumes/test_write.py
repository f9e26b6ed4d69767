import json
from itertools import permutations, product

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from mamba_unet.volumes.geometry import turn_to_network
from mamba_unet.volumes.read import read_volume
from mamba_unet.volumes.volume import Volume
from mamba_unet.volumes.write import save_nifti, stored_class_names, to_nibabel

SIGNED_AXES = [
    np.eye(3)[list(order)] * signs for order in permutations(range(3)) for signs in product((1, -1), repeat=3)
]
TILT = Rotation.from_euler("xyz", [9, -8, 11], degrees=True).as_matrix()


def segment(scan: Volume) -> np.ndarray:
    """(T, D, H, W): what a network gives that sees slices as in training and marks what is bright."""
    turn = turn_to_network(scan, "SPL")
    return turn.undo((turn.apply(scan.grey) > 5).astype(np.uint8))


@pytest.mark.parametrize("tilt", [np.eye(3), TILT], ids=["straight", "oblique"])
@pytest.mark.parametrize("axes", SIGNED_AXES)
def test_a_label_is_in_the_corner_where_it_was_seen(tmp_path, axes, tilt):
    """A bright box near the front left foot of an asymmetric volume, in each of the 48 orders of stored axes."""
    affine = np.eye(4)
    affine[:3, :3] = tilt @ axes * (1.5, 1.25, 1.0)
    affine[:3, 3] = 11, -22, 33
    shape = (8, 9, 10)
    centre = affine[:3, :3] @ ((np.array(shape) - 1) / 2) + affine[:3, 3]
    corner = tilt.T @ ((np.moveaxis(np.indices(shape), 0, -1) @ affine[:3, :3].T + affine[:3, 3]) - centre)[..., None]
    left_front_foot = (corner[..., 0] * (-1, 1, -1) > (1.5, 2.2, 0.8)).all(axis=-1)
    nib.save(nib.Nifti1Image(7.0 * left_front_foot.astype(np.float32), affine), tmp_path / "a.nii.gz")

    scan = read_volume(tmp_path / "a.nii.gz")
    save_nifti(tmp_path / "b.nii.gz", scan, segment(scan))
    source, result = nib.load(tmp_path / "a.nii.gz"), nib.load(tmp_path / "b.nii.gz")
    assert np.array_equal(result.affine, source.affine) and result.get_data_dtype() == np.uint8
    assert 0 < left_front_foot.sum() < 100 and np.array_equal(result.get_fdata(), left_front_foot)


@given(
    angles=st.tuples(*[st.floats(-180, 180)] * 3),
    spacing=st.tuples(*[st.floats(0.3, 12)] * 3),
    shape=st.tuples(*[st.integers(1, 5)] * 3),
)
@settings(max_examples=40, deadline=None)
def test_any_place_is_kept(tmp_path_factory, angles, spacing, shape):
    path = tmp_path_factory.mktemp("scan") / "a.nii"
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() * spacing
    voxels = np.random.default_rng(0).integers(0, 11, shape).astype(np.int16)
    nib.save(nib.Nifti1Image(voxels, affine), path)
    scan = read_volume(path)
    save_nifti(path.with_name("b.nii"), scan, segment(scan))
    source, result = nib.load(path), nib.load(path.with_name("b.nii"))
    assert np.array_equal(result.affine, source.affine) and result.shape == shape
    assert np.array_equal(result.get_fdata(), voxels > 5)


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 1), (6, 5, 4), (6, 5, 4, 1), (6, 5, 4, 3), (6, 5, 1, 3)])
@pytest.mark.parametrize("codes", [(1, 4), (0, 2), (3, 0), (0, 0)])
def test_shape_and_header_stay_as_they_were(tmp_path, kind, shape, codes):
    voxels = np.arange(np.prod(shape), dtype=np.int16).reshape(shape)
    image = kind(voxels, np.eye(4))
    image.header.set_zooms((1.5, 1.4, 8, 0.05)[: len(shape)])
    image.header.set_xyzt_units("mm", "sec")
    image.header["cal_max"], image.header["aux_file"] = 255, b"scanner"
    image.header.set_dim_info(0, 1, 2 if len(shape) > 2 else None)
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"anonymised"))
    qform, sform = np.diag([-1.5, -1.4, 8, 1]), np.array([[0, 1.3, 0, 4], [1.6, 0, 0, 5], [0, 0, 8, 6], [0, 0, 0, 1.0]])
    image.set_qform(qform, codes[0], update_affine=False)
    image.set_sform(sform, codes[1], update_affine=True)
    image.header.set_slope_inter(2, -10)
    nib.save(image, tmp_path / "a.nii.gz")
    scan = read_volume(tmp_path / "a.nii.gz")
    for name in ("b.nii.gz", "c.nii.gz"):  # the second as the first: nothing is left in the scan by saving
        save_nifti(tmp_path / name, scan, scan.grey > 0, class_names=["background", "heart"])
        source, result = nib.load(tmp_path / "a.nii.gz"), nib.load(tmp_path / name)
        assert type(result) is kind and result.shape == shape
        assert np.array_equal(np.asarray(result.dataobj), 2 * voxels - 10 > 0) and result.get_data_dtype() == np.uint8
        assert np.array_equal(result.affine, source.affine)
        new = ("datatype", "bitpix", "scl_slope", "scl_inter", "cal_max", "descrip", "vox_offset")
        for key in source.header:
            assert key in new or np.array_equal(result.header[key], source.header[key]), key
        said = [extension.get_content().rstrip(b"\0") for extension in result.header.extensions]
        assert said[0] == b"anonymised" and len(said) == 2
        assert json.loads(said[1]) == {"labels": {"0": "background", "1": "heart"}}


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((6, 5), (6, 5, 1, 2)), ((6, 5, 4), (6, 5, 4, 2)), ((6, 5, 4, 1), (6, 5, 4, 2)), ((6, 5, 4, 3), (6, 5, 4, 3, 2))],
)
def test_probabilities_have_the_classes_last(tmp_path, shape, expected):
    image = nib.Nifti1Image(np.zeros(shape, np.int16), np.diag([-1.5, -1.5, 8, 1]))
    if len(shape) == 4:
        image.header.set_zooms((1.5, 1.5, 8, 0.05))
    nib.save(image, tmp_path / "a.nii.gz")
    scan = read_volume(tmp_path / "a.nii.gz")
    heart = np.random.default_rng(0).random(scan.grey.shape, np.float32)
    save_nifti(tmp_path / "b.nii.gz", scan, np.stack([1 - heart, heart], axis=1), np.float32)
    result = nib.load(tmp_path / "b.nii.gz")
    assert result.shape == expected and result.get_data_dtype() == np.float32
    assert np.array_equal(result.affine, nib.load(tmp_path / "a.nii.gz").affine)
    stored = result.get_fdata(dtype=np.float32)[..., 1]
    assert np.array_equal(stored.reshape(scan.grey.T.shape), heart.T)
    assert result.header.get_zooms()[3:] == pytest.approx((0.05, 1) if len(expected) == 5 else (1,))


def test_the_names_of_another_networks_classes_are_replaced_and_of_several_the_last_count(tmp_path):
    """An image that was made with the header of a segmentation carries the names that were in it."""
    header = nib.Nifti1Header()
    for names in (["background", "aorta"], ["background", "liver", "spleen"]):
        text = json.dumps({"labels": dict(enumerate(names))}).encode()
        header.extensions.append(nib.nifti1.Nifti1Extension("comment", text))
    header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"of another program"))
    nib.save(nib.Nifti1Image(np.zeros((3, 4, 5), np.int16), np.eye(4), header), tmp_path / "a.nii.gz")
    scan = read_volume(tmp_path / "a.nii.gz")
    assert stored_class_names(scan.header) == ["background", "liver", "spleen"]
    save_nifti(tmp_path / "b.nii.gz", scan, scan.grey, class_names=["background", "heart"])
    result = nib.load(tmp_path / "b.nii.gz").header
    assert stored_class_names(result) == ["background", "heart"]
    assert [one.get_content() for one in result.extensions[:-1]] == [b"of another program"]


def test_a_result_of_an_itk_image_lies_where_itk_reads_it(tmp_path):
    image = sitk.GetImageFromArray(np.arange(60, dtype=np.int16).reshape(3, 4, 5))
    image.SetDirection((TILT[[1, 2, 0]] * (1, -1, 1)).ravel().tolist())
    image.SetSpacing([1.2, 2.3, 3.4])
    image.SetOrigin([-10, 20, 30])
    sitk.WriteImage(image, tmp_path / "a.mha")
    scan = read_volume(tmp_path / "a.mha")
    save_nifti(tmp_path / "a.nii.gz", scan, scan.grey)
    result = sitk.ReadImage(tmp_path / "a.nii.gz")
    assert result.GetOrigin() == pytest.approx(image.GetOrigin(), abs=1e-5)
    assert result.GetSpacing() == pytest.approx(image.GetSpacing(), abs=1e-5)
    assert result.GetDirection() == pytest.approx(image.GetDirection(), abs=1e-5)
    assert np.array_equal(sitk.GetArrayFromImage(result), scan.grey[0])
    stored = nib.load(tmp_path / "a.nii.gz")
    assert stored.affine == pytest.approx(scan.affine, abs=1e-5) and stored.header.get_xyzt_units()[0] == "mm"
    for get in ("get_qform", "get_sform"):
        assert getattr(stored, get)(coded=True)[1] == 1


def test_without_an_affine_the_spacing_is_written_and_without_that_voxels():
    array = np.zeros((3, 4, 5))
    spaced = to_nibabel(Volume.from_array(array, (8, 1.5, 1.25)), array[None])
    assert np.array_equal(spaced.affine, np.diag([1.25, 1.5, 8, 1])) and spaced.shape == (5, 4, 3)
    bare = to_nibabel(Volume.from_array(array), array[None])
    assert np.array_equal(bare.affine, np.eye(4)) and bare.header.get_xyzt_units()[0] == "unknown"
    cine = to_nibabel(Volume.from_array(array[None].repeat(2, 0)), array[None].repeat(2, 0))
    assert cine.shape == (5, 4, 3, 2)


def test_a_pair_of_files_and_a_header_in_microns_keep_their_place(tmp_path):
    affine = np.array([[0, -1500.0, 0, 5], [1500, 0, 0, 6], [0, 0, 8000, 7], [0, 0, 0, 1]])
    image = nib.Nifti1Image(np.zeros((5, 4, 3), np.int16), affine)
    image.header.set_xyzt_units("micron")
    scan = Volume.from_nibabel(image)
    result = to_nibabel(scan, scan.grey)
    assert scan.spacing_mm == (8.0, 1.5, 1.5)
    assert np.array_equal(result.affine, affine) and result.header.get_xyzt_units()[0] == "micron"

    affine[:3] /= 1000
    pair = nib.Nifti1Pair(np.zeros((5, 4, 3), np.int16), affine)
    pair.set_sform(affine, 4)
    scan = Volume.from_nibabel(pair)
    save_nifti(tmp_path / "a.nii", scan, scan.grey)
    result = nib.load(tmp_path / "a.nii")
    assert result.affine == pytest.approx(affine) and result.get_sform(coded=True)[1] == 4


@pytest.mark.parametrize("shape", [(3, 4, 5), (1, 3, 5, 4), (2, 3, 4, 5), (1, 1, 1, 3, 4, 5)])
def test_a_result_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match=r"x: array of shape .* for an image of shape \(1, 3, 4, 5\)"):
        to_nibabel(Volume.from_array(np.zeros((3, 4, 5)), name="x"), np.zeros(shape))


@pytest.mark.parametrize("name", ["a.png", "a.mha", "a.img", "a.hdr", "a.gz", "a"])
def test_a_name_that_is_not_of_nifti_is_refused(tmp_path, name):
    scan = Volume.from_array(np.zeros((3, 4, 5)))
    with pytest.raises(ValueError, match=rf"/{name}: expected a name that ends in \.nii\.gz or \.nii; .*to_sitk"):
        save_nifti(tmp_path / name, scan, scan.grey)
    assert not list(tmp_path.iterdir())


def test_a_file_is_whole_or_not_there(tmp_path, monkeypatch):
    def full(image, path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(nib, "save", full)
    scan = Volume.from_array(np.zeros((3, 4, 5)))
    with pytest.raises(OSError, match=r"No space left on device: .*a\.nii"):
        save_nifti(tmp_path / "a.nii", scan, scan.grey)
    assert not list(tmp_path.iterdir())


def test_a_picture_wider_than_nifti_1_counts_is_written_as_nifti_2(tmp_path):
    array = np.zeros((4, 33000), np.uint8)
    array[1:3, 100:200] = 1
    save_nifti(tmp_path / "a.nii.gz", Volume.from_array(array), array[None, None])
    assert isinstance(nib.load(tmp_path / "a.nii.gz"), nib.Nifti2Image)
    assert np.array_equal(read_volume(tmp_path / "a.nii.gz").grey[0, 0], array)
