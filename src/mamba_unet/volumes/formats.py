"""File formats: NIfTI, HDF5, npz and 2D pictures to one (D, H, W) array and where it lies."""

import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

NIFTI = (".nii.gz", ".nii")
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
THROUGH_PLANE = 1.5  # a spacing so many times each other one is between slices, not within


class UnreadableError(ValueError):
    """A file that is truncated, of another kind than its name says, or without the array looked for."""

    def __init__(self, file: Path, reason: str):
        super().__init__(f"{file}: {reason}")
        self.file, self.reason = file, reason


def voxel_size_mm(affine: np.ndarray) -> tuple[float, float, float]:
    """Voxel size in array order (D, H, W) by an affine of (X, Y, Z), to the nearest nanometre.

    Rounded because headers hold it as float32.
    """
    x, y, z = np.sqrt((affine[:3, :3] ** 2).sum(axis=0)).round(6).tolist()
    return z, y, x


def through_plane(spacing_mm: Sequence[float]) -> int | None:
    """The axis whose spacing is at least 1.5 times each other one: slices were acquired across it; None without one."""
    *_, second, largest = sorted(spacing_mm)
    return list(spacing_mm).index(largest) if largest >= THROUGH_PLANE * second else None


def axis_codes(affine: np.ndarray) -> str:
    """nibabel's codes of the directions nearest to the axes, in array order, by an affine of (X, Y, Z): "SPL"."""
    import nibabel as nib

    return "".join(reversed(nib.aff2axcodes(affine)))


@dataclass(frozen=True, eq=False)
class StoredImage:
    """An image or a label as stored.

    Attributes:
        array: (D, H, W), the stored type.
        affine: (4, 4) of the stored NIfTI array (X, Y, Z), to millimetres; None for the other formats.
    """

    array: np.ndarray
    affine: np.ndarray | None = None

    @property
    def spacing_mm(self) -> tuple[float, float, float] | None:
        """Voxel size in array order."""
        return None if self.affine is None else voxel_size_mm(self.affine)

    @property
    def orientation(self) -> str | None:
        """nibabel's axis codes in array order, e.g. "SPL"."""
        return None if self.affine is None else axis_codes(self.affine)


def ending(file: Path, endings: Sequence[str]) -> str | None:
    """The one of `endings` that the file's name has, or None."""
    return next((end for end in endings if file.name.lower().endswith(end)), None)


def stem(file: Path) -> str:
    """The file's name without its ending, `.nii.gz` and `.npy.h5` taken as one."""
    end = ending(file, (".nii.gz", ".npy.h5")) or file.suffix
    return file.name[: len(file.name) - len(end)] if end else file.name


def read_volume(files: Sequence[Path], key: Literal["image", "label"]) -> StoredImage:
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
    return volumes[0] if len(files) == 1 else StoredImage(np.concatenate([volume.array for volume in volumes]))


@contextmanager
def reading(file: Path) -> Iterator[None]:
    """Turn what numpy, h5py, Pillow and nibabel raise at a damaged file into an `UnreadableError` that names it."""
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError
    from PIL.Image import DecompressionBombError

    broken = (OSError, EOFError, KeyError, SyntaxError, TypeError, ValueError, zlib.error, zipfile.BadZipFile)
    try:
        yield
    except UnreadableError:
        raise
    except (*broken, ImageFileError, HeaderDataError, DecompressionBombError) as error:
        raise UnreadableError(file, f"{type(error).__name__}: {' '.join(str(error).split())}") from error


def _read(file: Path, key: str) -> StoredImage:
    affine = None
    with reading(file):
        if ending(file, NIFTI):
            import nibabel as nib

            array, affine = read_nifti(nib.load(file), file)
        elif ending(file, PICTURES):
            array = read_picture(file, palette=key == "label")
        elif ending(file, (".npz",)):
            # opened here, because numpy leaves a broken archive open
            with open(file, "rb") as stream, np.load(stream, allow_pickle=False) as arrays:
                array = _named(arrays, key, file)
        else:
            import h5py

            with h5py.File(file, "r") as arrays:
                array = _named(arrays, key, file)
                # HDF5 can point into any file; one that was sent to a server must not point into the server's own
                is_own = isinstance(array, h5py.Dataset) and array.file.filename == arrays.filename
                if not is_own or array.external or array.is_virtual:
                    raise UnreadableError(file, f"{key!r} is no array in this file, but a group or in another file")
                array = array[()]
    array = array[None] if array.ndim == 2 else array
    if array.ndim != 3 or not array.size:
        raise UnreadableError(file, f"{key} of shape {array.shape}, expected (H, W) or (D, H, W)")
    return StoredImage(array, affine)


def _named(arrays: Any, key: str, file: Path) -> Any:
    if key not in arrays:
        raise UnreadableError(file, f"no array {key!r} in it; it holds {', '.join(arrays) or 'nothing'}")
    return arrays[key]


def read_nifti(image: Any, file: Path, cine: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Voxels and affine of a nibabel image.

    Args:
        image: of nibabel; its voxels are loaded here.
        file: what errors name.
        cine: take a fourth axis, time.

    Returns:
        (D, H, W), or (T, D, H, W) for an image of four axes, axes in stored order, by their slope and intercept; and
        the affine (4, 4) of (X, Y, Z) to millimetres (a header may count in metres or microns).

    Raises:
        UnreadableError: other axes than these, complex numbers or colours, a singular affine.
    """
    from nibabel.nifti1 import Nifti1Header

    shape, dtype = image.shape, image.get_data_dtype()
    while len(shape) > 2 and shape[-1] == 1:
        shape = shape[:-1]
    if not 2 <= len(shape) <= 3 + cine or 0 in shape or dtype.kind not in "biuf":
        expected = "one 3D volume of numbers" + ", or frames of it over a fourth axis" * cine
        raise UnreadableError(file, f"shape {image.shape}, type {dtype}: expected {expected}")
    affine = image.header.get_best_affine() if image.affine is None else image.affine
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        raise UnreadableError(file, "its affine is singular: voxel size or direction is lost")
    if isinstance(image.header, Nifti1Header):
        to_mm = {1: 1e3, 3: 1e-3}.get(int(image.header["xyzt_units"]) % 8, 1)  # codes 1 metre, 2 mm, 3 micron
        affine = np.diag([to_mm, to_mm, to_mm, 1]) @ affine
    return np.asanyarray(image.dataobj).reshape(*shape, *[1] * (3 - len(shape))).T, affine


def read_picture(file: Path, palette: bool = False) -> np.ndarray:
    """A picture's grey values: (H, W), or (D, H, W) for a TIFF of several pages.

    Args:
        file: as Pillow reads it, 1 to 32 bits.
        palette: take a palette's indices, as a label has them, not its colours.

    Raises:
        UnreadableError: real colours (channels that are all the same are grey), or pages of different sizes.
    """
    from PIL import Image, ImageSequence

    with Image.open(file) as picture:
        pages = ImageSequence.Iterator(picture) if picture.format == "TIFF" else [picture]
        arrays = [_grey(page, palette, file) for page in pages]
    if len({array.shape for array in arrays}) > 1:
        sizes = ", ".join(f"{height} x {width}" for height, width in dict.fromkeys(array.shape for array in arrays))
        raise UnreadableError(file, f"pages of different sizes: {sizes}; expected one volume's slices, all alike")
    return arrays[0] if len(arrays) == 1 else np.stack(arrays)


def _grey(picture: Any, palette: bool, file: Path) -> np.ndarray:
    """(H, W) of one page, an alpha channel ignored."""
    if picture.mode == "P" and not palette:
        picture = picture.convert("RGB")
    array = np.asarray(picture)
    if array.dtype == bool:
        return array.astype(np.uint8)
    if array.ndim == 3:
        colours = array[..., : {"LA": 1, "RGB": 3, "RGBA": 3}.get(picture.mode, 0)]
        if not colours.size or (colours != colours[..., :1]).any():
            raise UnreadableError(
                file, f"colours ({picture.mode}): expected one channel; convert colours to grey values"
            )
        return colours[..., 0]
    return array
