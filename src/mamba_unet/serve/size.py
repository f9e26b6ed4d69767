"""How large a volume is that somebody sent, before it takes memory: a few kilobytes can unpack to terabytes."""

import math
import zipfile
from pathlib import Path

import numpy as np

from mamba_unet.volumes import metaimage, nrrd
from mamba_unet.volumes.formats import METAIMAGE, NIFTI, NRRD, PICTURES, ending
from mamba_unet.volumes.pictures import FORMATS


def count_voxels(file: Path) -> int:
    """How many a file says that it holds, and readers make room for.

    Returns:
        0 where none of this is said in one place: DICOM, whose zips `volumes.dicom` bounds.

    Raises:
        Exception: a damaged file, whatever its library says of it; `volumes.read` has the words.
    """
    if ending(file, NIFTI):
        import nibabel as nib

        return math.prod(nib.load(file).shape)
    if ending(file, METAIMAGE):
        return metaimage.count_values(file)
    if ending(file, NRRD):
        return nrrd.count_values(file)
    if ending(file, PICTURES):
        from PIL import Image

        with Image.open(file, formats=FORMATS) as picture:
            return math.prod(picture.size) * getattr(picture, "n_frames", 1)
    if ending(file, (".npz",)):
        form = np.lib.format
        with zipfile.ZipFile(file) as archive, archive.open("image.npy") as stream:
            header = form.read_array_header_1_0 if form.read_magic(stream) == (1, 0) else form.read_array_header_2_0
            return math.prod(header(stream)[0])
    if ending(file, (".h5", ".hdf5")):
        import h5py

        with h5py.File(file, "r") as arrays:
            return arrays["image"].size
    return 0
