"""What kinds of files there are, by the ends of their names, and the error that names a file which cannot be read."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from mamba_unet.words import printable

# of an array in a file that holds several; a label's palette, and a scribble's, means indices, not colours
Kind = Literal["image", "label", "scribble"]

NIFTI = (".nii.gz", ".nii")
TIFF = (".tif", ".tiff")  # a picture that may have pages
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", *TIFF, ".gif")
NRRD = (".nrrd", ".nhdr")
METAIMAGE = (".mha", ".mhd")
ITK = (*METAIMAGE, *NRRD)
ARRAYS = (".h5", ".hdf5", ".npz", ".npy")
ZIP = (".zip",)
DICOM = (".dcm", ".dicom", ".ima")  # other names may have it too: it is known by its content
FILES = (*NIFTI, *ITK, *PICTURES, *ARRAYS)
MAKE_NIFTI = "save it as .nii.gz, with the program that wrote it or with nibabel"
OTHERS = {  # kinds that are known and not taken, and what to do with them
    ".nii.bz2": "unpack it (bunzip2) and give the .nii",
    ".nii.xz": "unpack it (unxz) and give the .nii",
    ".nii.zst": "unpack it (unzstd) and give the .nii",
    ".hdr": f"a pair of .hdr and .img; {MAKE_NIFTI}",
    ".img": f"a pair of .hdr and .img; {MAKE_NIFTI}",
    ".mgz": f"FreeSurfer's format; {MAKE_NIFTI} (mri_convert)",
    ".mgh": f"FreeSurfer's format; {MAKE_NIFTI} (mri_convert)",
    ".mnc": f"MINC; {MAKE_NIFTI} (mnc2nii)",
    ".raw": "bare values; give the header that lies beside it (.mhd or .nhdr)",
    ".zraw": "bare values; give the header that lies beside it (.mhd)",
    ".rar": "unpack it and give the folder",
    ".7z": "unpack it and give the folder",
    ".tar": "unpack it and give the folder",
    ".tar.gz": "unpack it and give the folder",
    ".tgz": "unpack it and give the folder",
}
DATA = (".raw", ".zraw")  # lie beside the headers that name them
SIGNS = {  # how files begin that are often taken for images
    b"version https://git-lfs": "a pointer of git-lfs, not the file itself; fetch it (git lfs pull)",
    b"<": "a web page, as a failed download leaves it; download it again",
    b"{": "JSON text, as a failed download leaves it; download it again",
    b"\x1f\x8b": "gzipped; unpack it (gunzip)",
    b"PK\x03\x04": "a zip; unpack it, or name it .zip",
    b"BZh": "packed by bzip2; unpack it (bunzip2)",
    b"\xfd7zXZ": "packed by xz; unpack it (unxz)",
    b"\x89HDF": "HDF5; name it .h5",
    b"\x89PNG": "a picture; name it .png",
    b"NRRD": "NRRD; name it .nrrd",
    b"ObjectType": "MetaImage; name it .mha",
}
DANGLES = "a link to a file that is not there; fetch it, or mend the link"
TAKEN = (
    "NIfTI (.nii, .nii.gz), .mha, .mhd, .nrrd, pictures (.png, .jpg, .bmp, .tif, .gif), "
    "HDF5 or npz with an array `image`, npy, or DICOM (a folder, a .zip or a file)"
)


class UnreadableError(ValueError):
    """A file that is truncated, of another kind than its name says, or without the array looked for.

    Attributes:
        file, reason: the message is both.
        damaged: whether the file is known to be; else it may be whole, and is not what was looked for.
    """

    def __init__(self, file: Path, reason: str, damaged: bool = False):
        super().__init__(f"{printable(str(file))}: {reason}")
        self.file, self.reason, self.damaged = file, reason, damaged


class RefusedError(ValueError):
    """Why a file is not read; `reading` adds its name."""


class DamagedError(RefusedError):
    """Why a file cannot be read, though its kind is known."""


def dangles(path: Path) -> bool:
    """Whether it is a link to nothing, such as git-annex leaves for what was not fetched."""
    return path.is_symlink() and not path.exists()


def ending(file: Path, endings: Sequence[str]) -> str | None:
    """The one of `endings` that the file's name has, or None."""
    return next((end for end in endings if file.name.lower().endswith(end)), None)


def stem(file: Path) -> str:
    """The file's name without its ending, `.nii.gz` and `.npy.h5` taken as one. Digits alone, as a DICOM file's UID
    ends, are none."""
    end = ending(file, (".nii.gz", ".npy.h5", ".seg.nrrd")) or ("" if file.suffix[1:].isdigit() else file.suffix)
    return file.name[: len(file.name) - len(end)] if end else file.name


def called(beginning: bytes) -> str:
    """What a file is by its first bytes, and what to do, where another kind was expected."""
    if beginning and not beginning.strip(b"\0"):
        return "empty, or zeros; copy it again"
    return taken_for(beginning) or f"it begins with {beginning[:8]!r}; damaged, or of another kind"


def taken_for(beginning: bytes, own: Sequence[bytes] = ()) -> str:
    """What a file is that is often taken for an image; empty for any other.

    Args:
        beginning: the first 132 bytes.
        own: of `SIGNS`, those that the file may begin with.
    """
    if not beginning:
        return "empty; copy it again"
    if beginning[128:132] == b"DICM":
        return "DICOM; name it .dcm"
    known = (text for sign, text in SIGNS.items() if sign not in own and beginning.lstrip().startswith(sign))
    return next(known, "")


def refuse_other(file: Path, own: Sequence[bytes]) -> None:
    """Refuse a file that is another kind than its name says.

    Raises:
        DamagedError: what it is, by `taken_for`, and what to do.
    """
    with open(file, "rb") as stream:
        beginning = stream.read(132)
    if other := taken_for(beginning, own):
        raise DamagedError(f"not what its name says: {other}" if beginning else other)


@contextmanager
def reading(file: Path, problem: str = "") -> Iterator[None]:
    """Turn whatever is raised at a damaged or refused file into an `UnreadableError` that names it, and the problem."""
    try:
        yield
    except UnreadableError:
        raise
    except RefusedError as error:
        raise UnreadableError(file, printable(f"{problem}{error}"), isinstance(error, DamagedError)) from None
    except MemoryError as error:
        raise UnreadableError(file, f"{printable(problem)}needs more memory than the machine has", True) from error
    except Exception as error:  # a damaged file can raise anything in the libraries that take it apart
        what = "cannot be opened" if isinstance(error, OSError) and error.errno else "damaged or cut short"
        said = printable(" ".join(f"{type(error).__name__}: {error}".split()))[:300]
        raise UnreadableError(
            file, f"{printable(problem)}{what}; copy it again, or leave it out ({said})", True
        ) from error
