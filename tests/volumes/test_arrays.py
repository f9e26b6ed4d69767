import io
import struct
import zipfile

import h5py
import numpy as np
import pytest

from mamba_unet.volumes import limits
from mamba_unet.volumes.formats import UnreadableError
from mamba_unet.volumes.read import read_volume

GREY = np.arange(24, dtype=np.int16).reshape(2, 3, 4)


def refused(path, reason):
    with pytest.raises(UnreadableError, match=reason) as error:
        read_volume(path)
    assert "\n" not in str(error.value) and len(error.value.reason) < 500


@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_of_numpy_are_read_as_numpy_reads_them(tmp_path, order):
    array = np.asarray(GREY, order=order)
    np.save(tmp_path / "a.npy", array)
    np.savez_compressed(tmp_path / "b.npz", image=array)
    for name in ("a.npy", "b.npz"):
        assert np.array_equal(read_volume(tmp_path / name).grey[0], GREY)


def npy(descr: str, shape: str, data: bytes = b"") -> bytes:
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + data


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (npy("'|V800000000'", "(2, 3)"), "expected plain numbers"),
        (npy("('<f8', (9000, 9000))", "(2, 3)"), "expected plain numbers"),
        (npy("('<f8', (30000, 30000))", "(2, 3)"), "must fit into a C int"),
        (npy("'|O'", "(2, 3)"), "expected plain numbers"),
        (npy("'<U99999'", "(2, 3)"), "expected plain numbers"),
        (npy("'<f8'", "(90000, 90000, 90000)"), "GiB of memory"),
        (npy("'<f8'", "(2, -3)"), "damaged|shape|expected"),
        (npy("'<f8'", "(2, 3)", bytes(40)), "40 bytes of values, expected 48"),
        (npy("'<f8'", "(2, 3, 4, 5)"), r"shape \(2, 3, 4, 5\), expected"),
        (npy("__import__", "(2, 3)"), "damaged"),
        (b"\x93NUMPY\7\0" + bytes(99), "version"),
        (b"\x93NUMPY\1\0\xff\xff" + b"(" * 65535, "damaged"),
    ],
)
def test_a_header_of_numpy_is_checked_before_anything_is_read(tmp_path, content, reason):
    (tmp_path / "a.npy").write_bytes(content)
    refused(tmp_path / "a.npy", reason)
    with zipfile.ZipFile(tmp_path / "b.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("image.npy", content)
    refused(tmp_path / "b.npz", reason)


def test_archives_that_lie_or_are_packed_without_bounds_are_refused(tmp_path):
    stream = io.BytesIO()
    np.save(stream, GREY)
    with zipfile.ZipFile(tmp_path / "lzma.npz", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("image.npy", stream.getvalue())
    refused(tmp_path / "lzma.npz", "packed in an unusual way")
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(tmp_path / "twice.npz", "w") as archive:
        for _ in range(2):
            archive.writestr("image.npy", stream.getvalue())
    refused(tmp_path / "twice.npz", "several arrays 'image' in it")
    with zipfile.ZipFile(tmp_path / "short.npz", "w") as archive:
        archive.writestr("image.npy", stream.getvalue()[:-4])
    refused(tmp_path / "short.npz", "44 bytes of values, expected 48")
    data = bytearray((tmp_path / "short.npz").read_bytes())
    data[60] ^= 255
    (tmp_path / "sum.npz").write_bytes(data)
    refused(tmp_path / "sum.npz", "damaged|cut short|expected")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda f: f.create_dataset("image", (3, 4), "S800000000"), "expected plain numbers"),
        (lambda f: f.create_dataset("image", (3, 4), h5py.string_dtype()), "expected plain numbers"),
        (lambda f: f.create_dataset("image", (3, 4), [("a", int), ("b", float)]), "expected plain numbers"),
        (lambda f: f.create_dataset("image", (3, 4), np.dtype(("<f8", (9, 9)))), "expected|shape"),
        (lambda f: f.create_dataset("image", (90000, 90000, 900), "f8", chunks=(1, 9, 9)), "GiB of memory"),
        (lambda f: f.create_dataset("image", (2, 2), "u1", chunks=(60000, 60000), maxshape=(None, None)), "GiB"),
        (lambda f: f.create_dataset("image", data=h5py.Empty("f4")), "shape"),
        (lambda f: f.create_group("image"), "is no array in this file"),
        (lambda f: f.__setitem__("image", h5py.ExternalLink("/etc/hostname", "/image")), "is no array in this file"),
        (lambda f: f.__setitem__("image", h5py.SoftLink("/elsewhere")), "no array|is no array"),
        (lambda f: [f.create_group(f"{'x' * 99}{n}") for n in range(500)], "no array 'image' in it; it holds x"),
    ],
)
def test_hdf5_is_checked_before_memory_is_taken(tmp_path, monkeypatch, make, reason):
    monkeypatch.setattr(limits, "max_bytes", 1 << 30)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        make(file)
    refused(tmp_path / "a.h5", reason)
