"""File formats: NIfTI, HDF5, npz and 2D pictures to one (D, H, W) array and where it lies."""

import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

NIFTI = (".nii.gz", ".nii")
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")


class UnreadableError(ValueError):
    """A file that is truncated, of another kind than its name says, or without the array looked for."""

    def __init__(self, file: Path, reason: str):
        super().__init__(f"{file}: {reason}")
        self.file, self.reason = file, reason


@dataclass(frozen=True, eq=False)
class Volume:
    """An image or a label as stored.

    Attributes:
        array: (D, H, W), the stored type.
        affine: (4, 4) of the stored NIfTI array (X, Y, Z); None for the other formats.
    """

    array: np.ndarray
    affine: np.ndarray | None = None

    @property
    def spacing_mm(self) -> tuple[float, float, float] | None:
        """Voxel size in array order, to the nearest nanometre (headers hold it as float32)."""
        if self.affine is None:
            return None
        x, y, z = np.sqrt((self.affine[:3, :3] ** 2).sum(axis=0)).round(6).tolist()
        return z, y, x

    @property
    def orientation(self) -> str | None:
        """nibabel's axis codes in array order, e.g. "SPL"."""
        if self.affine is None:
            return None
        import nibabel as nib

        return "".join(reversed(nib.aff2axcodes(self.affine)))


def ending(file: Path, endings: Sequence[str]) -> str | None:
    """The one of `endings` that the file's name has, or None."""
    return next((end for end in endings if file.name.lower().endswith(end)), None)


def stem(file: Path) -> str:
    """The file's name without its ending, `.nii.gz` and `.npy.h5` taken as one."""
    end = ending(file, (".nii.gz", ".npy.h5")) or file.suffix
    return file.name[: len(file.name) - len(end)] if end else file.name


def read_volume(files: Sequence[Path], key: Literal["image", "label"]) -> Volume:
    """Read a volume.

    Args:
        files: one file that holds the whole volume or a 2D image, or the slices of a volume in their order.
        key: which array, in formats that name them (HDF5, npz).

    Raises:
        UnreadableError: names the file.
    """
    volumes = [_read(file, key) for file in files]
    for file, volume in zip(files, volumes, strict=True):
        if volume.array.shape != (1, *volumes[0].array.shape[1:]) and len(files) > 1:
            raise UnreadableError(
                file, f"slice of shape {volume.array.shape[1:]}, the first is {volumes[0].array.shape[1:]}"
            )
    return volumes[0] if len(files) == 1 else Volume(np.concatenate([volume.array for volume in volumes]))


def _read(file: Path, key: str) -> Volume:
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError

    # what numpy, h5py, Pillow and nibabel raise at a file that is cut short or not what its name says
    broken = (OSError, EOFError, KeyError, SyntaxError, TypeError, ValueError, zlib.error, zipfile.BadZipFile)
    try:
        if ending(file, NIFTI):
            return _read_nifti(file)
        if ending(file, PICTURES):
            array = _read_picture(file)
        elif ending(file, (".npz",)):
            # opened here, because numpy leaves a broken archive open
            with open(file, "rb") as stream, np.load(stream, allow_pickle=False) as arrays:
                array = arrays[key]
        else:
            import h5py

            with h5py.File(file, "r") as arrays:
                array = arrays[key][()]
    except UnreadableError:
        raise
    except (*broken, ImageFileError, HeaderDataError) as error:
        raise UnreadableError(file, f"{type(error).__name__}: {error}") from error
    array = array[None] if array.ndim == 2 else array
    if array.ndim != 3 or not array.size:
        raise UnreadableError(file, f"{key} of shape {array.shape}, expected (H, W) or (D, H, W)")
    return Volume(array)


def _read_nifti(file: Path) -> Volume:
    import nibabel as nib

    stored = nib.load(file)
    array, affine = np.asanyarray(stored.dataobj), stored.affine
    while array.ndim > 2 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or not array.size or array.dtype.names:
        raise UnreadableError(
            file, f"shape {stored.shape}, type {stored.get_data_dtype()}: expected one 3D volume of numbers"
        )
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        raise UnreadableError(file, "its affine is singular: voxel size or direction is lost")
    return Volume(array.transpose(2, 1, 0), affine)


def _read_picture(file: Path) -> np.ndarray:
    """(H, W). A palette gives its indices; colours are refused unless all the channels are the same grey."""
    from PIL import Image

    with Image.open(file) as picture:
        array = np.asarray(picture)
    if array.dtype == bool:
        return array.astype(np.uint8)
    if array.ndim == 3:
        colours = array[..., :3]
        if array.shape[-1] not in (3, 4) or (colours != colours[..., :1]).any():
            raise UnreadableError(file, f"shape {array.shape}: expected one channel; convert colours to grey values")
        return colours[..., 0]
    return array
