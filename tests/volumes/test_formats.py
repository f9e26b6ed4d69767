import gzip

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from mamba_unet.volumes.formats import UnreadableError, stem
from mamba_unet.volumes.read import read_volume
from mamba_unet.volumes.volume import join_slices


def test_nifti_is_transposed_in_stored_order_and_not_reoriented(tmp_path):
    stored = np.arange(24, dtype=np.int16).reshape(4, 3, 2)  # (X, Y, Z)
    affine = np.array([[0, -2.0, 0, 5], [1.5, 0, 0, 6], [0, 0, 8, 7], [0, 0, 0, 1]])
    nib.save(nib.Nifti1Image(stored, affine), tmp_path / "a.nii.gz")
    volume = read_volume(tmp_path / "a.nii.gz", "image")
    assert np.array_equal(volume.array[0, 0], stored.transpose(2, 1, 0))
    assert volume.spacing_mm == (8.0, 2.0, 1.5)
    assert volume.orientation == "SLA"  # X runs to the front, Y to the left, Z up
    assert np.array_equal(volume.affine, affine)


def test_spacing_is_what_the_header_was_given(tmp_path):
    nib.save(nib.Nifti1Image(np.zeros((2, 2, 2), np.int16), np.diag([1.56, 1.4, 9.9, 1])), tmp_path / "a.nii")
    assert read_volume(tmp_path / "a.nii", "image").spacing_mm == (9.9, 1.4, 1.56)


def test_two_dimensional_nifti_and_trailing_axes_are_volumes(tmp_path):
    for name, shape, expected in (
        ("a", (4, 3), (1, 3, 4)),
        ("b", (4, 3, 2, 1, 1), (2, 3, 4)),
        ("c", (4, 3, 1), (1, 3, 4)),
    ):
        nib.save(nib.Nifti1Image(np.zeros(shape, np.int16), np.eye(4)), tmp_path / f"{name}.nii")
        assert read_volume(tmp_path / f"{name}.nii", "image").shape == expected


def test_nifti_holds_time_in_its_fourth_axis_and_channels_in_its_fifth_or_as_colours(tmp_path):
    rng = np.random.default_rng(0)
    cine = rng.integers(0, 99, (4, 3, 2, 5), dtype=np.int16)
    channels = rng.integers(0, 99, (4, 3, 2, 1, 3), dtype=np.int16)
    colours = rng.integers(0, 255, (4, 3, 2, 3), dtype=np.uint8)
    rgb = colours.copy().view([("R", "u1"), ("G", "u1"), ("B", "u1")])[..., 0]
    for name, array in (("cine", cine), ("channels", channels), ("rgb", rgb)):
        nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / f"{name}.nii")
    assert np.array_equal(read_volume(tmp_path / "cine.nii").array, cine.T[:, None])
    volume = read_volume(tmp_path / "channels.nii")
    assert np.array_equal(volume.array[0], channels[..., 0, :].T) and volume.stored_shape == (4, 3, 2, 1)
    volume = read_volume(tmp_path / "rgb.nii")
    assert np.array_equal(volume.array[0], colours.T) and volume.stored_shape == (4, 3, 2)


def test_singular_affine_is_refused(tmp_path):
    image = nib.Nifti1Image(np.zeros((2, 2, 2), np.int16), None)
    image.header.set_sform(np.diag([1, 1, 0, 1]), code=1)
    image.header.set_qform(None, code=0)
    nib.save(image, tmp_path / "a.nii")
    with pytest.raises(UnreadableError, match="singular"):
        read_volume(tmp_path / "a.nii", "image")


@pytest.mark.parametrize(
    ("mode", "array"),
    [
        ("L", np.arange(6, dtype=np.uint8).reshape(2, 3)),
        ("I;16", np.arange(6, dtype=np.uint16).reshape(2, 3) * 1000),
        ("1", np.eye(2, 3, dtype=bool)),
    ],
)
def test_grey_pictures(tmp_path, mode, array):
    Image.fromarray(array).save(tmp_path / "a.png")
    volume = read_volume(tmp_path / "a.png", "image")
    assert np.array_equal(volume.array[0, 0], array[None])
    assert volume.spacing_mm is None and volume.orientation is None


def test_colours_are_three_channels_and_a_label_has_none(tmp_path):
    grey = np.arange(6, dtype=np.uint8).reshape(2, 3)
    Image.fromarray(np.stack([grey] * 3, -1)).save(tmp_path / "grey.png")
    assert np.array_equal(read_volume(tmp_path / "grey.png").array[0, 0, 0], grey)
    colours = np.stack([grey, grey, grey + 1], -1)
    Image.fromarray(colours).save(tmp_path / "colour.png")
    assert np.array_equal(read_volume(tmp_path / "colour.png").array[0, :, 0], np.moveaxis(colours, -1, 0))
    with pytest.raises(UnreadableError, match="a label in colours: expected one class index per pixel"):
        read_volume(tmp_path / "colour.png", "label")


def test_palette_gives_its_indices(tmp_path):
    indices = np.array([[0, 1], [2, 3]], np.uint8)
    picture = Image.fromarray(indices, mode=None).convert("L")
    picture.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255])
    picture.save(tmp_path / "a.png")
    assert np.array_equal(read_volume(tmp_path / "a.png", "label").array[0, 0, 0], indices)


def test_slices_are_stacked_in_the_given_order(tmp_path):
    for number in range(3):
        np.savez(tmp_path / f"{number}.npz", image=np.full((2, 2), number))
    volume = join_slices([read_volume(tmp_path / f"{number}.npz") for number in (2, 0, 1)])
    assert volume.array[0, 0, :, 0, 0].tolist() == [2, 0, 1]


def test_slices_of_different_shape_are_refused(tmp_path):
    np.savez(tmp_path / "0.npz", image=np.zeros((2, 2)))
    np.savez(tmp_path / "1.npz", image=np.zeros((2, 3)))
    with pytest.raises(UnreadableError, match=r"1\.npz: slice of shape \(2, 3\)"):
        join_slices([read_volume(tmp_path / name) for name in ("0.npz", "1.npz")])


def truncated(path, keep=0.6):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    return path


def test_truncated_and_mislabelled_files_are_unreadable(tmp_path):
    import h5py

    noise = np.random.default_rng(0).integers(0, 255, (30, 30, 30), dtype=np.uint8)
    nib.save(nib.Nifti1Image(noise, np.eye(4)), tmp_path / "a.nii.gz")
    nib.save(nib.Nifti1Image(noise, np.eye(4)), tmp_path / "b.nii")
    Image.fromarray(noise[0]).save(tmp_path / "c.png")
    np.savez(tmp_path / "d.npz", image=noise)
    with h5py.File(tmp_path / "e.h5", "w") as file:
        file["image"] = noise
    broken = [truncated(tmp_path / name) for name in ("a.nii.gz", "b.nii", "c.png", "d.npz", "e.h5")]
    for name, content in (
        ("f.nii.gz", b""),
        ("g.nii.gz", b"not gzip"),
        ("h.png", b"x"),
        ("i.h5", b""),
        ("j.npz", b""),
        ("l.npz", b"x" * 99),
    ):
        (tmp_path / name).write_bytes(content)
        broken.append(tmp_path / name)
    (tmp_path / "k.nii.gz").write_bytes(gzip.compress(b"no header" * 100))
    for path in [*broken, tmp_path / "k.nii.gz", tmp_path / "absent.nii"]:
        with pytest.raises(UnreadableError) as error:
            read_volume(path, "image")
        assert path.name in str(error.value)


def test_missing_array_is_named(tmp_path):
    np.savez(tmp_path / "a.npz", image=np.zeros((2, 2)))
    with pytest.raises(UnreadableError, match="label"):
        read_volume(tmp_path / "a.npz", "label")


@pytest.mark.parametrize("how", ["external link", "external storage", "virtual", "group"])
def test_hdf5_whose_array_is_elsewhere_is_refused(tmp_path, how):
    import h5py

    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["image"] = np.ones((3, 4))
    (tmp_path / "secret.raw").write_bytes(bytes(12))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        if how == "external link":
            file["image"] = h5py.ExternalLink(tmp_path / "secret.h5", "image")
        elif how == "external storage":
            file.create_dataset("image", (3, 4), "u1", external=[(tmp_path / "secret.raw", 0, 12)])
        elif how == "group":
            file["image/t1"] = np.ones((3, 4))
        else:
            layout = h5py.VirtualLayout((3, 4), "f8")
            layout[:] = h5py.VirtualSource(tmp_path / "secret.h5", "image", (3, 4))
            file.create_virtual_dataset("image", layout)
    with pytest.raises(UnreadableError, match=r"a\.h5: 'image' is no array in this file"):
        read_volume(tmp_path / "a.h5", "image")


def test_stem_takes_double_endings_as_one(tmp_path):
    names = {"a.nii.gz": "a", "case0001.npy.h5": "case0001", "b.c.png": "b.c", "d": "d", "1.2.840.5.0": "1.2.840.5.0"}
    assert {name: stem(tmp_path / name) for name in names} == names
