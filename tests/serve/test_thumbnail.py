"""The small picture that a volume is chosen by."""

import io

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from mamba_unet.serve.readers import Readers
from mamba_unet.serve.thumbnail import thumbnail
from mamba_unet.volumes.find import find_volumes


@pytest.mark.parametrize("orientation", ["LPS", "RAS", "ALS", "PIR"])
def test_a_slice_stands_as_radiologists_look_at_it(tmp_path, orientation):
    """White in what lies to the patient's right, at the front and at the head."""
    array = np.zeros((24, 24, 24), np.int16)
    array[tuple(slice(12, None) if code in "RAS" else slice(0, 12) for code in orientation)] = 100
    affine = np.zeros((4, 4))
    for axis, (along, sign) in enumerate(nib.orientations.axcodes2ornt(orientation).astype(int)):
        affine[along, axis] = sign * (2, 1, 1)[axis]
    affine[3, 3] = 1
    array[:, :, 12] = array.max(axis=2)  # the slice that is shown
    nib.save(nib.Nifti1Image(array, affine), tmp_path / "a.nii.gz")
    readers = Readers()
    try:
        shown = np.asarray(Image.open(io.BytesIO(thumbnail(find_volumes([tmp_path / "a.nii.gz"])[0], readers))))
    finally:
        readers.close()
    assert sorted(shown.shape) == [48, 96]  # in the proportions of its pixels
    rows, columns = np.nonzero(shown > 128)
    assert rows.mean() < shown.shape[0] / 2 and columns.mean() < shown.shape[1] / 2
