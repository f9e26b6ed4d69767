"""A scan from disk, whatever kind of file or folder it is in."""

import re
from collections.abc import Sequence
from dataclasses import replace
from mmap import ACCESS_READ, mmap
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np

from mamba_unet.volumes.dicom.files import is_dicom
from mamba_unet.volumes.dicom.find import find_series, list_series
from mamba_unet.volumes.dicom.read import read_series
from mamba_unet.volumes.formats import (
    NIFTI,
    PICTURES,
    UnreadableError,
    ending,
    read_picture,
    read_volume,
    reading,
    stem,
)
from mamba_unet.volumes.volume import Volume

NRRD = (".nrrd", ".nhdr")
ITK = (".mha", ".mhd", *NRRD)
ARRAYS = (".h5", ".hdf5", ".npz")
ZIP = (".zip",)
FILES = (*NIFTI, *ITK, *PICTURES, *ARRAYS)
TAKEN = (
    "NIfTI (.nii, .nii.gz), .mha, .mhd, .nrrd, pictures (.png, .jpg, .bmp, .tif), "
    "HDF5 or npz with an array `image`, or DICOM (a folder, a .zip or a file)"
)


def case_name(path: Path) -> str:
    """What the outputs of an input are called: its name without endings and nnU-Net's channel suffix `_0000`."""
    name = path.resolve().name if path.is_dir() else stem(path)
    return name.removesuffix("_0000") or name


def read_image(path: str | Path) -> Volume:
    """Read a scan with its geometry.

    Args:
        path: NIfTI of two, three or four axes (time last); MHA, MHD or NRRD; PNG, JPEG, BMP or TIFF, whose pages are
            slices; HDF5 or npz with an array `image` of (H, W) or (D, H, W); a DICOM file, or a folder or zip of one
            DICOM series.

    Raises:
        UnreadableError: absent, damaged, of no kind that is taken, not one scan, colours or complex numbers.
    """
    path = Path(path)
    if not path.exists():
        raise UnreadableError(path, "no such file or folder")
    with reading(path):
        if path.is_dir() or ending(path, ZIP):
            scan = _read_dicom(path)
        elif ending(path, NIFTI):
            import nibabel as nib

            scan = Volume.from_nibabel(nib.load(path, mmap=False), case_name(path), path)
        elif ending(path, ITK):
            scan = _read_itk(path)
        elif ending(path, PICTURES):
            scan = Volume.from_array(read_picture(path), name=case_name(path))
        elif ending(path, ARRAYS):
            scan = Volume.from_array(read_volume([path], "image").array, name=case_name(path))
        elif is_dicom(path):
            scan = _read_dicom(path)
        else:
            raise UnreadableError(path, f"not a kind of file that is taken; expected {TAKEN}")
    return replace(scan, source=path)


def as_volume(image: Any, spacing_mm: Sequence[float] | None = None) -> Volume:
    """A scan of whatever a caller has.

    Args:
        image: path of any kind that `read_image` takes, array, nibabel or SimpleITK image, or a `Volume`.
        spacing_mm: voxel size of D, H, W, for an image that does not tell (an array, a picture, HDF5).

    Raises:
        ValueError: none of these, or a spacing for an image that has its own.
        UnreadableError: see `read_image`.
    """
    if isinstance(image, Volume):
        scan = image
    elif isinstance(image, (str, Path)):
        scan = read_image(image)
    elif isinstance(image, np.ndarray):
        scan = Volume.from_array(image)
    elif hasattr(image, "dataobj"):
        scan = Volume.from_nibabel(image)
    elif hasattr(image, "GetPixelIDTypeAsString"):
        scan = Volume.from_sitk(image)
    else:
        raise ValueError(
            f"an image of type {type(image).__name__}; expected a path, a numpy array, a nibabel or a SimpleITK image"
        )
    if spacing_mm is None:
        return scan
    if scan.spacing_mm is not None:
        raise ValueError(f"{scan.name}: spacing_mm={spacing_mm}, but the image says {scan.spacing_mm} itself")
    return replace(scan, spacing_mm=Volume.from_array(scan.array, spacing_mm, scan.name).spacing_mm)


def _read_itk(path: Path) -> Volume:
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetImageIO("NrrdImageIO" if ending(path, NRRD) else "MetaImageIO")
    reader.SetFileName(str(path))
    for name in _data_files(path):
        where = PureWindowsPath(name)  # takes both kinds of slash
        if where.anchor or ".." in where.parts:
            raise UnreadableError(path, f"its data file {name} is elsewhere; expected it in or below the same folder")
    try:
        image = reader.Execute()
    except RuntimeError as error:
        said = str(error).strip().splitlines()[-1]
        raise UnreadableError(path, f"damaged, cut short or without its data file ({said})") from error
    try:
        return Volume.from_sitk(image, case_name(path))
    except ValueError as error:
        raise UnreadableError(path, str(error)) from error


def _data_files(path: Path) -> list[str]:
    """Files that the header of a MetaImage or NRRD file names. One sent to a server must not name the server's own."""
    names: list[bytes] = []
    with open(path, "rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as data:
        if ending(path, NRRD):  # its header ends at a blank line
            ends = [end for end in (data.find(b"\n\n"), data.find(b"\r\n\r\n")) if end >= 0]
            found = re.finditer(rb"data ?file\s*:\s*([^\r\n]*)", data[: min(ends, default=None)], re.IGNORECASE)
        else:
            found = re.finditer(rb"ElementDataFile\s*[=:]\s*([^\r\n]*)", data)
        for field in found:
            names += data[field.end() :].splitlines() if field[1].startswith(b"LIST") else [field[1]]
    return [name.decode("utf-8", "replace").strip() for name in names]


def _read_dicom(path: Path) -> Volume:
    series = find_series(path)
    if not series:
        raise UnreadableError(path, f"no DICOM image in it; expected {TAKEN}")
    if len(series) > 1:
        raise UnreadableError(path, f"{len(series)} DICOM series, expected one; part them:\n{list_series(series)}")
    return replace(read_series(series[0]), name=case_name(path))
