"""HDF5, npz and npy: plain arrays, without geometry."""

from pathlib import Path
from typing import Any

import numpy as np

from mamba_unet.volumes.formats import Kind, UnreadableError, ending
from mamba_unet.volumes.volume import Volume


def read_arrays(path: Path, kind: Kind, name: str) -> Volume:
    """The array `image` or `label` of an HDF5 or npz file, or that of an npy file: (H, W) or (D, H, W).

    Raises:
        UnreadableError: no such array, another number of axes, or a link to another file.
    """
    if ending(path, (".npy",)):
        array = np.load(path, allow_pickle=False)
    elif ending(path, (".npz",)):
        # opened here, because numpy leaves a broken archive open
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            array = _named(arrays, kind, path)
    else:
        import h5py

        with h5py.File(path, "r") as arrays:
            stored = _named(arrays, kind, path)
            # HDF5 can point into any file; one that was sent to a server must not point into the server's own
            is_own = isinstance(stored, h5py.Dataset) and stored.file.filename == arrays.filename
            if not is_own or stored.external or stored.is_virtual:
                raise UnreadableError(path, f"{kind!r} is no array in this file, but a group or in another file")
            array = stored[()]
    array = np.asarray(array)
    if array.dtype.kind not in "biuf":
        raise UnreadableError(path, f"{kind} of type {array.dtype}; expected plain numbers")
    if array.ndim not in (2, 3) or not array.size:
        raise UnreadableError(path, f"{kind} of shape {array.shape}, expected (H, W) or (D, H, W)")
    return Volume.from_array(array, name=name)


def _named(arrays: Any, kind: str, path: Path) -> Any:
    if kind not in arrays:
        raise UnreadableError(path, f"no array {kind!r} in it; it holds {', '.join(arrays) or 'nothing'}")
    return arrays[kind]
