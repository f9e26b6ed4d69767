"""What kinds of files there are, by the ends of their names, and the error that names a file which cannot be read."""

import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

Kind = Literal["image", "label"]  # of an array in a file that holds both; a label's palette means indices, not colours

NIFTI = (".nii.gz", ".nii")
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".gif")
NRRD = (".nrrd", ".nhdr")
ITK = (".mha", ".mhd", *NRRD)
ARRAYS = (".h5", ".hdf5", ".npz", ".npy")
ZIP = (".zip",)
FILES = (*NIFTI, *ITK, *PICTURES, *ARRAYS)  # DICOM is known by its content
TAKEN = (
    "NIfTI (.nii, .nii.gz), .mha, .mhd, .nrrd, pictures (.png, .jpg, .bmp, .tif, .gif), "
    "HDF5 or npz with an array `image`, npy, or DICOM (a folder, a .zip or a file)"
)


class UnreadableError(ValueError):
    """A file that is truncated, of another kind than its name says, or without the array looked for."""

    def __init__(self, file: Path, reason: str):
        super().__init__(f"{file}: {reason}")
        self.file, self.reason = file, reason


def ending(file: Path, endings: Sequence[str]) -> str | None:
    """The one of `endings` that the file's name has, or None."""
    return next((end for end in endings if file.name.lower().endswith(end)), None)


def stem(file: Path) -> str:
    """The file's name without its ending, `.nii.gz` and `.npy.h5` taken as one."""
    end = ending(file, (".nii.gz", ".npy.h5", ".seg.nrrd")) or file.suffix
    return file.name[: len(file.name) - len(end)] if end else file.name


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
