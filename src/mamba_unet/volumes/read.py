"""A volume from disk, whatever kind of file or folder it is in: the one reader of images and labels."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mamba_unet.volumes.arrays import read_arrays
from mamba_unet.volumes.dicom.files import is_dicom
from mamba_unet.volumes.dicom.find import find_series, list_series
from mamba_unet.volumes.dicom.read import read_series
from mamba_unet.volumes.formats import (
    ARRAYS,
    DANGLES,
    METAIMAGE,
    NIFTI,
    NRRD,
    OTHERS,
    PICTURES,
    TAKEN,
    ZIP,
    Kind,
    RefusedError,
    UnreadableError,
    dangles,
    ending,
    reading,
    refuse_other,
    stem,
    taken_for,
)
from mamba_unet.volumes.metaimage import read_metaimage
from mamba_unet.volumes.nifti import read_nifti_file
from mamba_unet.volumes.nrrd import read_nrrd
from mamba_unet.volumes.pictures import read_picture
from mamba_unet.volumes.volume import Volume


@dataclass(frozen=True)
class Format:
    """A kind of file, by the ends of its names.

    Attributes:
        endings: in lower case.
        read: (path, kind of array, name of the volume) -> volume.
        signs: of `formats.SIGNS`, those that such a file may begin with; None where the reader tells what else it is.
    """

    endings: tuple[str, ...]
    read: Callable[[Path, Kind, str], Volume]
    signs: tuple[bytes, ...] | None = None


FORMATS = (
    Format(NIFTI, read_nifti_file),
    Format(METAIMAGE, read_metaimage, (b"ObjectType",)),
    Format(NRRD, read_nrrd, (b"NRRD",)),
    Format(PICTURES, read_picture, (b"\x89PNG",)),
    Format(ARRAYS, read_arrays, (b"\x89HDF", b"PK\x03\x04")),
)


SMALLEST_MM, LARGEST_MM = 1e-6, 1e5  # a nanometre, a hundred metres
FARTHEST_MM = 1e7  # of the first voxel from the origin
LARGEST_VALUE = 1e37  # sums and differences of such values still fit into float32


def case_name(path: Path) -> str:
    """What the outputs of an input are called: its name without endings and nnU-Net's channel suffix `_0000`."""
    name = path.resolve().name if path.is_dir() else stem(path)
    return name.removesuffix("_0000") or name


def read_volume(path: str | Path, kind: Kind = "image") -> Volume:
    """Read an image or a label with its geometry.

    Args:
        path: NIfTI of two, three or four axes (time last); MHA, MHD or NRRD; PNG, JPEG, BMP, GIF or TIFF, whose pages
            are slices; HDF5, npz or npy; a DICOM file, or a folder or zip of one DICOM series.
        kind: "image", "label" or "scribble": which array of a file that holds several, and whether a palette means
            colours or indices.

    Raises:
        UnreadableError: absent, damaged, of no kind that is taken, not one volume, complex numbers.
    """
    path = Path(path)
    if not path.exists():
        if dangles(path):
            raise UnreadableError(path, DANGLES)
        raise UnreadableError(path, "no such file or folder")
    with reading(path):
        known = None if path.is_dir() else next((one for one in FORMATS if ending(path, one.endings)), None)
        if known is not None:
            if known.signs is not None:
                refuse_other(path, known.signs)
            volume = known.read(path, kind, case_name(path))
            _check(volume)
        elif path.is_dir() or ending(path, ZIP) or is_dicom(path):
            volume = _read_dicom(path)
        else:
            raise RefusedError(_not_taken(path))
    return replace(volume, source=path)


def _check(volume: Volume) -> None:
    """Refuse sizes and values that no image has and that arithmetic breaks at."""
    if volume.spacing_mm is not None and not all(SMALLEST_MM <= size <= LARGEST_MM for size in volume.spacing_mm):
        sizes = " x ".join(f"{size:.3g}" for size in volume.spacing_mm)
        raise RefusedError(f"voxels of {sizes} mm; expected {SMALLEST_MM:g} to {LARGEST_MM:g}: its header is damaged")
    if volume.affine is not None and not np.abs(volume.affine[:3, 3]).max() <= FARTHEST_MM:
        where = ", ".join(f"{value:.3g}" for value in volume.affine[:3, 3])
        raise RefusedError(
            f"its first voxel is at ({where}) mm; expected at most {FARTHEST_MM:g}: its header is damaged"
        )
    if volume.array.dtype.kind == "f" and volume.array.dtype.itemsize > 2:
        lowest, largest = np.nanmin(volume.array, initial=0), np.nanmax(volume.array, initial=0)
        if np.isfinite([lowest, largest]).all() and max(-lowest, largest) > LARGEST_VALUE:
            raise RefusedError(
                f"values from {lowest:.3g} to {largest:.3g}; expected less than {LARGEST_VALUE:g}: damaged, or of "
                "another type than its header says"
            )


def _not_taken(path: Path) -> str:
    if remedy := OTHERS.get(ending(path, OTHERS) or ""):
        return f"not a kind of file that is taken: {remedy}"
    with open(path, "rb") as file:
        known = taken_for(file.read(132))
    return f"not a kind of file that is taken; expected {TAKEN}" + (f"; it is {known}" if known else "")


def as_volume(image: Any, spacing_mm: Sequence[float] | None = None, channel_axis: int | None = None) -> Volume:
    """A volume of whatever a caller has.

    Args:
        image: path of any kind that `read_volume` takes, array, nibabel or SimpleITK image, or a `Volume`.
        spacing_mm: voxel size of D, H, W, for an image that does not tell (an array, a picture, HDF5).
        channel_axis: of an array with an axis of channels, see `Volume.from_array`.

    Raises:
        ValueError: none of these, or a spacing for an image that has its own.
        UnreadableError: see `read_volume`.
    """
    if isinstance(image, Volume):
        volume = image
    elif isinstance(image, (str, Path)):
        volume = read_volume(image)
    elif isinstance(image, np.ndarray):
        volume = Volume.from_array(image, channel_axis=channel_axis)
        if image.ndim - (channel_axis is not None) == 2:
            volume = replace(volume, stored_shape=volume.shape[:0:-1])
    elif hasattr(image, "dataobj"):
        volume = Volume.from_nibabel(image)
    elif hasattr(image, "GetPixelIDTypeAsString"):
        volume = Volume.from_sitk(image)
    else:
        raise ValueError(
            f"an image of type {type(image).__name__}; expected a path, a numpy array, a nibabel or a SimpleITK image"
        )
    if spacing_mm is None:
        return volume
    if volume.spacing_mm is not None:
        raise ValueError(f"{volume.name}: spacing_mm={spacing_mm}, but the image says {volume.spacing_mm} itself")
    return replace(volume, spacing_mm=Volume.from_array(volume.grey, spacing_mm, volume.name).spacing_mm)


def _read_dicom(path: Path) -> Volume:
    series = find_series(path)
    if not series:
        raise UnreadableError(path, f"no DICOM image in it; expected {TAKEN}")
    if len(series) > 1:
        raise UnreadableError(path, f"{len(series)} DICOM series, expected one; part them:\n{list_series(series)}")
    return replace(read_series(series[0]), name=case_name(path))
