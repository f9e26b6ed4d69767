import numpy as np
import pytest

from mamba_unet.volumes.dicom.find import find_series
from mamba_unet.volumes.dicom.read import read_series
from mamba_unet.volumes.formats import UnreadableError


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
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_is_no_even_stack_of_grey_images_is_refused_by_name(write_series, tmp_path, volume, name):
    edit, attributes, message = REFUSALS[name]
    write_series(tmp_path / "series", np.concatenate([volume, volume]), edit=edit, **attributes)
    (series,) = find_series(tmp_path)
    with pytest.raises(UnreadableError, match=message) as refused:
        read_series(series)
    assert refused.value.file.is_relative_to(tmp_path)


def test_positions_written_with_few_decimals_are_even(read_only, write_series, tmp_path, volume):
    def rounded(dataset, t, d):
        dataset.ImagePositionPatient = [-40, 30, round(100 + 0.625 * d, 1)]

    write_series(tmp_path, np.concatenate([volume] * 4), edit=rounded)
    assert read_only(tmp_path).spacing_mm[0] == pytest.approx(0.625, abs=0.01)


def rounded_to_tenths(step):
    def edit(dataset, t, d):
        dataset.ImagePositionPatient = [-40, 30, round(100 + step * d, 1)]
        dataset.SliceThickness = step

    return edit


def test_steps_of_one_and_two_units_are_rounding_where_the_files_tell_the_step_between(
    read_only, write_series, tmp_path, volume
):
    thin = np.concatenate([volume] * 8)
    write_series(tmp_path, thin, edit=rounded_to_tenths(0.15))
    image = read_only(tmp_path)
    assert np.array_equal(image.grey[0], thin) and image.spacing_mm[0] == pytest.approx(0.15, rel=0.01)


@pytest.mark.parametrize("missing", [1, 9, 15, 30])
def test_a_missing_slice_is_no_rounding_however_thin(read_only, write_series, tmp_path, volume, missing):
    thin = np.concatenate([volume] * 8)
    edit = rounded_to_tenths(0.1)
    write_series(tmp_path, thin, edit=lambda ds, t, d: edit(ds, t, d) or d == missing)
    with pytest.raises(UnreadableError, match="slices are missing"):
        read_only(tmp_path)
