"""Bits to values: overlays, signs, scales, padding."""

import numpy as np
import pytest
from pydicom import dcmread

from mamba_unet.volumes.formats import UnreadableError

JPEG_LS, RLE = "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.5"
TWELVE = {"BitsStored": 12, "HighBit": 11}


@pytest.fixture
def smooth() -> np.ndarray:
    """(3, 16, 20), a ramp of 12 bits."""
    return np.add.outer(np.arange(3) * 900, np.add.outer(np.arange(16) * 30, np.arange(20) * 20)).astype(np.uint16)


def marked(array, *bits):
    """The array with a square set in each of these bits."""
    array = array.copy()
    for shift, bit in enumerate(bits):
        array[:, 2 + shift : 8, 3 : 9 + shift] |= np.array(1 << bit).astype(array.dtype)
    return array


def declare(*bits):
    def edit(dataset, t, d):
        for number, bit in enumerate(bits):
            dataset.add_new((0x6000 + 2 * number, 0x0100), "US", 16)
            dataset.add_new((0x6000 + 2 * number, 0x0102), "US", bit)

    return edit


def call_twelve(files):
    """Compressed with all 16 bits, though 12 are the value."""
    for file in files:
        dataset = dcmread(file)
        dataset.BitsStored, dataset.HighBit = 12, 11
        dataset.save_as(file)


@pytest.mark.parametrize("syntax", [None, JPEG_LS, RLE])
def test_declared_overlays_in_the_pixels_are_no_values(read_only, write_series, tmp_path, smooth, syntax, caplog):
    call_twelve(write_series(tmp_path, marked(smooth, 12, 14), syntax=syntax, edit=declare(12, 14)))
    assert np.array_equal(read_only(tmp_path).grey[0], smooth) and not caplog.records


@pytest.mark.parametrize("syntax", [None, JPEG_LS, RLE])
def test_one_undeclared_overlay_is_left_out_with_a_note(read_only, write_series, tmp_path, smooth, syntax, caplog):
    call_twelve(write_series(tmp_path, marked(smooth, 13), syntax=syntax))
    assert np.array_equal(read_only(tmp_path).grey[0], smooth)
    assert caplog.text.count("bits above BitsStored mark some pixels") == 1


@pytest.mark.parametrize("syntax", [None, JPEG_LS, RLE])
@pytest.mark.parametrize("factor", [2, 15])
def test_values_that_bits_stored_does_not_admit_are_never_cut(
    read_only, write_series, tmp_path, smooth, syntax, factor
):
    call_twelve(write_series(tmp_path, smooth * np.uint16(factor), syntax=syntax))
    with pytest.raises(UnreadableError, match=r"BitsStored is 12, but values use bits above \(up to \d+\)"):
        read_only(tmp_path)


@pytest.mark.parametrize("syntax", [None, JPEG_LS, RLE])
@pytest.mark.parametrize("overlay", [False, True])
def test_signs_are_extended_from_bits_stored(read_only, write_series, tmp_path, smooth, syntax, overlay):
    signed = (smooth // 2).astype(np.int16) - 1000
    stored = (signed.view(np.uint16) & 0x0FFF).view(np.int16)
    stored = marked(stored, 12) if overlay else stored
    call_twelve(write_series(tmp_path, stored, syntax=syntax, edit=declare(12) if overlay else None))
    assert np.array_equal(read_only(tmp_path).grey[0], signed)


def test_values_at_the_upper_end_of_their_bits(read_only, write_series, tmp_path, smooth):
    write_series(tmp_path / "upper", smooth << 4, BitsStored=12, HighBit=15)
    assert np.array_equal(read_only(tmp_path / "upper").grey[0], smooth)
    write_series(tmp_path / "wrong", smooth | 1, BitsStored=12, HighBit=15)
    with pytest.raises(UnreadableError, match="HighBit 15, but lower bits are used too"):
        read_only(tmp_path / "wrong")


def test_a_slope_of_zero_is_one_with_a_note_and_an_empty_one_is_one(read_only, write_series, tmp_path, smooth, caplog):
    write_series(tmp_path / "empty", smooth, RescaleSlope=None, RescaleIntercept=None)
    assert np.array_equal(read_only(tmp_path / "empty").grey[0], smooth) and not caplog.records
    write_series(tmp_path / "zero", smooth, RescaleSlope=0, RescaleIntercept=-1024)
    assert np.array_equal(read_only(tmp_path / "zero").grey[0], smooth.astype(int) - 1024)
    assert caplog.text.count("RescaleSlope is 0") == 1


def test_a_scale_that_is_no_single_number_is_refused(read_only, write_series, tmp_path, smooth):
    write_series(tmp_path, smooth, RescaleSlope=["1", "2"], RescaleIntercept=0)
    with pytest.raises(UnreadableError, match=r"RescaleSlope is '\[.*; expected one number"):
        read_only(tmp_path)


@pytest.mark.parametrize("scale", [("1e36", "0"), ("1e-44", "0"), ("0.5", "1e9"), ("1", "1e300"), ("1", "-1e39")])
def test_scales_beyond_32_bits_are_refused(read_only, write_series, tmp_path, smooth, scale):
    write_series(tmp_path, smooth, RescaleSlope=scale[0], RescaleIntercept=scale[1])
    with pytest.raises(UnreadableError, match="values beyond what 32 bits hold"):
        read_only(tmp_path)


@pytest.mark.parametrize(("kind", "value"), [(np.int16, -2000), (np.uint16, 63536)])
def test_padding_far_outside_the_values_takes_the_lowest_of_them(
    read_only, write_series, tmp_path, smooth, kind, value, caplog
):
    stored = smooth.astype(kind)
    stored[:, :3] = value
    write_series(tmp_path, stored, PixelPaddingValue=value, RescaleSlope=1, RescaleIntercept=-1024)
    expected = smooth.astype(int) - 1024
    expected[:, :3] = expected[:, 3:].min()
    assert np.array_equal(read_only(tmp_path).grey[0], expected)
    assert "180 voxels are padding outside the image" in caplog.text


def test_padding_among_the_values_stays(read_only, write_series, tmp_path, smooth, caplog):
    smooth[:, :3] = 0
    write_series(tmp_path, smooth, PixelPaddingValue=0)
    assert np.array_equal(read_only(tmp_path).grey[0], smooth) and not caplog.records
