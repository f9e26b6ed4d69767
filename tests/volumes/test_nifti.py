import gzip
import struct
from functools import partial

import nibabel as nib
import numpy as np
import pytest

from mamba_unet.volumes import limits
from mamba_unet.volumes.formats import UnreadableError
from mamba_unet.volumes.geometry import Turn, misplacement, turn_to_network
from mamba_unet.volumes.isolated import Reader
from mamba_unet.volumes.read import read_volume
from mamba_unet.volumes.write import save_nifti

STORED = np.random.default_rng(0).integers(0, 999, (7, 6, 5), dtype=np.int16)


@pytest.fixture
def plain(tmp_path) -> bytes:
    nib.save(nib.Nifti1Image(STORED, np.diag([1.5, 2, 8, 1])), tmp_path / "good.nii")
    return (tmp_path / "good.nii").read_bytes()


def patched(data: bytes, offset: int, form: str, *values) -> bytes:
    data = bytearray(data)
    struct.pack_into(form, data, offset, *values)
    return bytes(data)


def test_packing_is_told_by_content(tmp_path, plain):
    (tmp_path / "zipped.nii").write_bytes(gzip.compress(plain))
    (tmp_path / "padded.nii.gz").write_bytes(gzip.compress(plain) + bytes(512))
    (tmp_path / "members.nii.gz").write_bytes(gzip.compress(plain[:300]) + gzip.compress(plain[300:]))
    for name in ("zipped.nii", "padded.nii.gz", "members.nii.gz"):
        assert np.array_equal(read_volume(tmp_path / name).grey[0], STORED.T), name


@pytest.mark.parametrize(
    ("name", "spoil", "reason"),
    [
        ("a.nii.gz", lambda plain: plain, "NIfTI that is not gzipped; rename it to .nii"),
        ("a.nii.gz", lambda plain: gzip.compress(gzip.compress(plain)), "gzipped twice; unpack it once"),
        ("a.nii.gz", lambda plain: b"<!DOCTYPE html>", "a web page, as a failed download leaves it"),
        ("a.nii.gz", lambda plain: b"version https://git-lfs.github.com/spec/v1", "a pointer of git-lfs"),
        ("a.nii", lambda plain: b"PK\3\4" + bytes(400), "a zip; unpack it"),
        ("a.nii", lambda plain: b"", "empty; copy it again"),
        ("a.nii", lambda plain: bytes(400), "empty, or zeros"),
        ("a.nii.gz", lambda plain: gzip.compress(plain)[:-9], "cut short"),
        ("a.nii.gz", lambda plain: patched(gzip.compress(plain), -8, "<I", 7), "incorrect data check"),
        ("a.nii", lambda plain: plain[:-1], "419 bytes of values, expected 420"),
        ("a.nii", lambda plain: patched(plain, 40, "<8h", 3, 30000, 30000, 30000, 1, 1, 1, 1), "GiB of memory"),
        ("a.nii", lambda plain: patched(plain, 40, "<8h", 99, 3, 3, 3, 1, 1, 1, 1), "99 axes; expected two to seven"),
        ("a.nii", lambda plain: patched(plain, 40, "<8h", 3, -3, -3, -3, 1, 1, 1, 1), "expected no empty axis"),
        ("a.nii", lambda plain: patched(plain, 70, "<h", 1792), "one real number per voxel"),
        ("a.nii", lambda plain: patched(plain, 70, "<h", 77), "damaged"),
        ("a.nii", lambda plain: patched(plain, 108, "<f", 2e9), "its voxels begin at byte 2e[+]09"),
        ("a.nii", lambda plain: patched(plain, 108, "<f", float("nan")), "its voxels begin at byte nan"),
        ("a.nii", lambda plain: patched(plain, 0, "<i", 1543569408), "no NIfTI|axes"),
        ("a.nii", lambda plain: patched(plain, 112, "<ff", 1, 1e30), "which makes different ones equal"),
        ("a.nii", lambda plain: patched(plain, 112, "<ff", 1e-40, 0), "which makes different ones equal"),
        ("a.nii", lambda plain: patched(plain, 292, "<f", 1e30), r"its first voxel is at \(1e\+30, 0, 0\) mm"),
        ("a.nii", lambda plain: patched(plain, 344, "<4s", b"ni1\0"), "the header of a pair"),
        ("a.nii", lambda plain: patched(plain, 280, "<12f", *[1e30] * 12), "voxels of|singular|rotation|contradicts"),
    ],
)
def test_what_cannot_be_read_is_named_in_one_sentence(tmp_path, plain, name, spoil, reason):
    (tmp_path / name).write_bytes(spoil(plain))
    with pytest.raises(UnreadableError, match=reason) as error:
        read_volume(tmp_path / name)
    assert "\n" not in str(error.value) and len(error.value.reason) < 400


def test_what_unpacks_to_far_more_than_the_header_tells_is_refused(tmp_path, plain):
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(plain + bytes(80 << 20)))
    with pytest.raises(UnreadableError, match="goes on long after the 420 bytes"):
        read_volume(tmp_path / "a.nii.gz")


def test_the_limit_counts_bytes_and_not_voxels(tmp_path, plain, monkeypatch):
    monkeypatch.setattr(limits, "max_bytes", STORED.nbytes)
    assert read_volume(tmp_path / "good.nii").shape == (5, 6, 7)
    (tmp_path / "scaled.nii").write_bytes(patched(plain, 112, "<ff", 0.5, 3))  # becomes float64
    with pytest.raises(UnreadableError, match="GiB of memory"):
        read_volume(tmp_path / "scaled.nii")


def test_values_are_scaled_as_nibabel_scales_them_and_a_lost_intercept_is_none(tmp_path, plain):
    for number, (slope, intercept) in enumerate(((0.5, 3), (1, -1024), (0, 7), (np.nan, np.nan), (2, 0))):
        (tmp_path / f"{number}.nii").write_bytes(patched(plain, 112, "<ff", slope, intercept))
        expected = np.asanyarray(nib.load(tmp_path / f"{number}.nii").dataobj)
        volume = read_volume(tmp_path / f"{number}.nii")
        assert np.array_equal(volume.grey[0], expected.T) and volume.array.dtype == expected.dtype, number
    (tmp_path / "lost.nii").write_bytes(patched(plain, 112, "<ff", 1, np.nan))
    assert np.array_equal(read_volume(tmp_path / "lost.nii").grey[0], STORED.T)


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("qform_code", [0, 1])
@pytest.mark.parametrize(("unit", "mm"), [("mm", 1), ("meter", 1e3)])
def test_where_sform_and_pixdim_disagree_the_sizes_of_pixdim_are_taken_and_that_is_noted(
    tmp_path, kind, qform_code, unit, mm
):
    """As ACDC's files have it, whose sform is a diagonal of ones."""
    sizes = np.array([1.3158, 1.3158, 10]) / mm
    image = kind(STORED, None)
    image.header.set_zooms(sizes)
    image.header.set_xyzt_units(unit)
    if qform_code:
        image.set_qform(np.diag([*sizes * (-1, -1, 1), 1]), qform_code)
    for row, axis in (("srow_x", (-1 / mm, 0, 0, 5)), ("srow_y", (0, -1 / mm, 0, 6)), ("srow_z", (0, 0, 1 / mm, 7))):
        image.header[row] = axis
    image.header["sform_code"] = 1
    nib.save(kind(STORED, None, image.header), tmp_path / "a.nii.gz")
    volume = read_volume(tmp_path / "a.nii.gz")
    assert volume.spacing_mm == pytest.approx((10, 1.3158, 1.3158), rel=1e-5) and volume.orientation == "SPL"
    (note,) = volume.notes
    assert "the header contradicts itself: voxels of" in note and "the sizes are taken" in note


def test_a_quaternion_a_hair_too_long_and_an_sform_of_zeros_are_no_obstacle(tmp_path, plain):
    """From rounding, and from a writer that gives the code and forgets the rows."""
    alone = patched(plain, 252, "<hh", 1, 0)
    for name, data in (
        ("long", patched(alone, 256, "<3f", 0, 0, np.sqrt(1 + 3.845952e-07))),
        ("longer", patched(alone, 256, "<3f", 0.6, 0, np.sqrt(0.64 + 9e-6))),
        ("zeros", patched(patched(plain, 252, "<hh", 1, 1), 280, "<12f", *[0] * 12)),
    ):
        (tmp_path / f"{name}.nii").write_bytes(data)
        volume = read_volume(tmp_path / f"{name}.nii")
        assert volume.spacing_mm == pytest.approx((8, 2, 1.5), rel=1e-4) and not volume.notes, name
        with Reader() as reader:  # the result is written by another process than that which read the image
            volume = reader.read(partial(read_volume, volume.source), volume.source)
        save_nifti(tmp_path / "result.nii", volume, volume.grey)
        assert nib.load(tmp_path / "result.nii").affine == pytest.approx(volume.affine, abs=1e-4), name


@pytest.mark.parametrize("untold", [0, np.nan, np.inf])
def test_sizes_that_pixdim_does_not_tell_are_those_of_the_sform_in_what_is_written_too(tmp_path, plain, untold):
    for name, sizes in (("all", [untold] * 3), ("one", [1.5, untold, 8])):
        (tmp_path / f"{name}.nii").write_bytes(patched(plain, 80, "<3f", *sizes))
        volume = read_volume(tmp_path / f"{name}.nii")
        assert volume.spacing_mm == (8, 2, 1.5) and not volume.notes
        save_nifti(tmp_path / "result.nii", volume, volume.grey)
        assert nib.load(tmp_path / "result.nii").header.get_zooms() == (1.5, 2, 8)


@pytest.mark.parametrize("qform_code", [0, 1])
def test_sizes_that_nothing_tells_are_1_with_a_note(tmp_path, plain, qform_code):
    for name, size in (("zero", 0), ("nan", np.nan)):
        data = patched(patched(plain, 252, "<hh", qform_code, 0), 80, "<3f", 1.5, size, size)
        (tmp_path / f"{name}.nii").write_bytes(data)
        volume = read_volume(tmp_path / f"{name}.nii")
        assert volume.spacing_mm == (1, 1, 1.5) and "1 is taken, so volumes are a guess" in volume.notes[0]


@pytest.mark.parametrize("thickness", [0, 1, 8])
def test_a_single_slice_has_the_thickness_of_its_affine(tmp_path, plain, thickness):
    """pixdim counts along the axes that there are, which are two."""
    data = patched(patched(plain, 40, "<8h", 2, 7, 6, 1, 1, 1, 1, 1), 88, "<f", thickness)
    (tmp_path / "a.nii").write_bytes(data)
    volume = read_volume(tmp_path / "a.nii")
    assert volume.shape == (1, 6, 7) and volume.spacing_mm == (8, 2, 1.5) and not volume.notes


def test_sizes_with_a_sign_are_sizes(tmp_path, plain):
    """As old converters wrote them; a form tells the direction."""
    for codes in ((0, 0), (0, 1)):
        data = patched(patched(plain, 252, "<hh", *codes), 80, "<3f", -1.5, -2, -8)
        (tmp_path / "a.nii").write_bytes(data)
        assert read_volume(tmp_path / "a.nii").spacing_mm == (8, 2, 1.5)


def test_a_header_without_directions_is_noted_and_nothing_is_turned(tmp_path, plain):
    """nibabel and ITK assume opposite rows."""
    (tmp_path / "a.nii").write_bytes(patched(plain, 252, "<hh", 0, 0))
    untold, told = read_volume(tmp_path / "a.nii"), read_volume(tmp_path / "good.nii")
    assert untold.orientation is None and untold.spacing_mm == told.spacing_mm
    assert turn_to_network(untold, "SPL") == Turn() != turn_to_network(told, "SPL")
    assert misplacement(untold, told) == 0
    (note,) = untold.notes
    assert "the header tells no directions (sform_code and qform_code are 0)" in note and not told.notes


def test_a_header_that_mirrors_itself_is_noted(tmp_path):
    image = nib.Nifti1Image(STORED, np.eye(4))
    image.set_sform(np.diag([1.5, 1.5, 8, 1]), 1)
    image.set_qform(np.diag([-1.5, 1.5, 8, 1]), 1)
    nib.save(image, tmp_path / "a.nii")
    (note,) = read_volume(tmp_path / "a.nii").notes
    assert "axes run SAR by its sform and SAL by its qform" in note
    image.set_qform(np.diag([-1.5, 1.5, 8, 1]), 4)  # another space
    nib.save(image, tmp_path / "b.nii")
    assert not read_volume(tmp_path / "b.nii").notes


def test_a_quaternion_that_is_no_rotation(tmp_path, plain):
    for name, sform in (("with", 1), ("without", 0)):
        data = patched(patched(plain, 252, "<hh", 1, sform), 256, "<3f", 0.8, 0.8, 0.3)
        (tmp_path / f"{name}.nii").write_bytes(data)
    assert read_volume(tmp_path / "with.nii").spacing_mm == (8, 2, 1.5)
    with pytest.raises(UnreadableError, match="its qform is no rotation, and it has no sform"):
        read_volume(tmp_path / "without.nii")


def test_values_and_sizes_that_no_image_has_are_refused(tmp_path):
    nib.save(nib.Nifti1Image(np.full((2, 2, 2), 1e300), np.eye(4)), tmp_path / "huge.nii")
    with pytest.raises(UnreadableError, match=r"values from .* to 1e\+300; expected less than 1e\+37"):
        read_volume(tmp_path / "huge.nii")
    nib.save(nib.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.diag([1e9, 1e9, 1e9, 1])), tmp_path / "far.nii")
    with pytest.raises(UnreadableError, match=r"voxels of .* mm; expected 1e-06 to 100000"):
        read_volume(tmp_path / "far.nii")
