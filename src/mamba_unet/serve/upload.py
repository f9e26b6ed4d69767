"""What an uploaded file must not do to the machine it is read on: unpack to fill it, or point at its other files."""

import re
import zipfile
from pathlib import Path

from mamba_unet.data.formats import UnreadableError, ending

HEADER_BYTES = 2**16  # more than any text header has before its pixels


def check(path: Path, max_bytes: int) -> None:
    """Look at a file before a reader does.

    MetaImage and NRRD headers can name another file as their pixels, and HDF5 has links to files: a reader would give
    out whatever the server may read.

    Raises:
        UnreadableError: the file refers to other files, or its archive holds more than `max_bytes`.
    """
    if ending(path, (".zip",)):
        _check_zip(path, max_bytes)
    elif ending(path, (".mha", ".nrrd")):
        _check_header(path)
    elif ending(path, (".h5", ".hdf5")):
        _check_hdf5(path)


def _check_zip(path: Path, max_bytes: int) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
    except zipfile.BadZipFile as error:
        raise UnreadableError(path, "no zip archive, or cut short") from error
    if size > max_bytes:
        raise UnreadableError(path, f"unpacks to {size / 2**20:,.0f} MiB; {max_bytes / 2**20:,.0f} is the limit")


def _check_header(path: Path) -> None:
    with open(path, "rb") as file:
        head = file.read(HEADER_BYTES)
    if ending(path, (".mha",)):
        named = re.search(rb"^\s*ElementDataFile\s*=\s*(.*?)\s*$", head, re.MULTILINE)
        inside = named is not None and named[1].upper() == b"LOCAL"
    else:
        inside = not re.search(rb"^\s*data ?file\s*:", head.partition(b"\n\n")[0], re.MULTILINE | re.IGNORECASE)
    if not inside:
        raise UnreadableError(path, "its pixels are in another file; save it with them inside, as .mha or .nrrd")


def _check_hdf5(path: Path) -> None:
    import h5py

    try:
        with h5py.File(path) as file:
            link = file.get("image", getlink=True)
            if link is None:
                return  # the reader says so
            data = None if isinstance(link, (h5py.ExternalLink, h5py.SoftLink)) else file["image"]
            inside = isinstance(data, h5py.Dataset) and not data.external and not data.is_virtual
    except OSError as error:
        raise UnreadableError(path, "no HDF5 file, or cut short") from error
    if not inside:
        raise UnreadableError(path, "its array `image` is not in this file; copy it into one")
