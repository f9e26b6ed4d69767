"""HDF5, npz and npy: plain arrays, without geometry."""

import contextlib
import math
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mamba_unet.volumes.formats import Kind, RefusedError, called, ending
from mamba_unet.volumes.limits import require_memory
from mamba_unet.volumes.payload import read_array
from mamba_unet.volumes.volume import Volume
from mamba_unet.words import printable


def read_arrays(path: Path, kind: Kind, name: str) -> Volume:
    """The array `image`, `label` or `scribble` of an HDF5 or npz file, or that of an npy file: (H, W) or (D, H, W).

    Type and size are checked before the values are read.

    Raises:
        RefusedError: no such array, another number of axes, no numbers, or a link to another file.
        UnreadableError: more than the memory limit.
    """
    if ending(path, (".npy",)):
        with open(path, "rb") as stream:
            array = _read_npy(path, stream, kind)
    elif ending(path, (".npz",)):
        array = _read_npz(path, kind)
    else:
        array = _read_hdf5(path, kind)
    return Volume.from_array(array, name=name)


def _check(kind: str, shape: tuple[int, ...], dtype: np.dtype) -> None:
    if dtype.kind not in "biuf":
        raise RefusedError(f"{kind} of type {str(dtype)[:60]}; expected plain numbers")
    if len(shape) not in (2, 3) or not math.prod(shape):
        raise RefusedError(f"{kind} of shape {shape[:9]}, expected (H, W) or (D, H, W)")


def _read_npy(path: Path, stream: BinaryIO, kind: str) -> np.ndarray:
    form = np.lib.format
    begins = stream.read(6)
    if begins != form.MAGIC_PREFIX:
        raise RefusedError(f"no array of numpy: {called(begins)}")
    version = tuple(stream.read(2))
    headers = {(1, 0): form.read_array_header_1_0, (2, 0): form.read_array_header_2_0}
    if version not in headers:
        raise RefusedError(f"an array of numpy's version {version}; expected (1, 0) or (2, 0): save it again")
    shape, fortran, dtype = headers[version](stream)
    _check(kind, shape, dtype)
    return read_array(path, stream, shape[::-1], dtype).T if fortran else read_array(path, stream, shape, dtype)


def _read_npz(path: Path, kind: str) -> np.ndarray:
    with zipfile.ZipFile(path) as archive:
        found = [member for member in archive.infolist() if member.filename == f"{kind}.npy"]
        if len(found) != 1:
            there = [member.filename.removesuffix(".npy") for member in archive.infolist()]
            raise RefusedError(f"{'no array' if not found else 'several arrays'} {kind!r} in it; {_list(there)}")
        if found[0].compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise RefusedError("packed in an unusual way; save it with numpy.savez_compressed")
        with archive.open(found[0]) as stream:  # stops at the size that the directory tells, and compares the checksum
            return _read_npy(path, stream, kind)


def _read_hdf5(path: Path, kind: str) -> np.ndarray:
    import h5py

    with h5py.File(path, "r") as arrays:
        if kind not in arrays:
            raise RefusedError(f"no array {kind!r} in it; {_list(arrays)}")
        # HDF5 can point into any file; one that was sent to a server must not point into the server's own
        direct = isinstance(arrays.get(kind, getlink=True), h5py.HardLink)
        stored = arrays[kind] if direct else None
        if not isinstance(stored, h5py.Dataset) or stored.external or stored.is_virtual:
            raise RefusedError(f"{kind!r} is no array in this file, but a group or in another file")
        _check(kind, stored.shape or (), stored.dtype)
        size = math.prod(stored.shape) * stored.dtype.itemsize
        if stored.chunks is not None:  # a whole chunk is unpacked at a time, whatever part of it is wanted
            size += math.prod(stored.chunks) * stored.dtype.itemsize
            _check_chunks(stored)
        require_memory(path, size)
        return stored[()]


def _check_chunks(stored: Any) -> None:
    """Refuse chunks that are stored in more bytes than they can need: the library unpacks them to whatever size."""
    most = math.prod(stored.chunks) * stored.dtype.itemsize
    with contextlib.suppress(AttributeError, NotImplementedError):  # an HDF5 library that does not tell
        if any(stored.id.get_chunk_info(number).size > 1.1 * most + 4096 for number in range(_chunks(stored))):
            raise RefusedError(f"a chunk of it takes more than the {most:,} bytes it holds; damaged, save it again")


def _chunks(stored: Any) -> int:
    return stored.id.get_num_chunks() if stored.chunks else 0


def _list(names: Any) -> str:
    some = [printable(str(name))[:40] for name, _ in zip(names, range(6), strict=False)]
    return f"it holds {', '.join(some) or 'nothing'}{', ...' if len(names) > len(some) else ''}"
