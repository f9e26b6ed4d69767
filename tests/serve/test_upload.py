import zipfile

import h5py
import numpy as np
import pytest

from mamba_unet.data.formats import UnreadableError
from mamba_unet.serve.upload import check

META = b"ObjectType = Image\nNDims = 3\nDimSize = 4 4 4\nElementType = MET_UCHAR\nElementDataFile = %s\n"
NRRD = b"NRRD0004\ntype: uchar\ndimension: 3\nsizes: 4 4 4\nencoding: raw\n%s\n"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.mha", META % b"/etc/hostname"),
        ("a.mha", META % b"LIST"),
        ("a.nrrd", NRRD % b"data file: /etc/hostname"),
        ("a.nrrd", NRRD % b"datafile: secret.raw"),
    ],
)
def test_a_header_that_names_another_file_is_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content + bytes(64))
    with pytest.raises(UnreadableError, match="another file"):
        check(tmp_path / name, 2**20)


@pytest.mark.parametrize("name, content", [("a.mha", META % b"LOCAL"), ("a.nrrd", NRRD % b"")])
def test_a_header_before_its_own_pixels_passes(tmp_path, name, content):
    (tmp_path / name).write_bytes(content + b"\ndata file: in the pixels")
    check(tmp_path / name, 2**20)


def test_hdf5_whose_array_is_elsewhere_is_refused(tmp_path):
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["image"] = np.zeros((2, 3, 4))
    (tmp_path / "secret.raw").write_bytes(bytes(24))
    layout = h5py.VirtualLayout((2, 3, 4), "f8")
    layout[:] = h5py.VirtualSource(tmp_path / "secret.h5", "image", (2, 3, 4))
    with h5py.File(tmp_path / "link.h5", "w") as file:
        file["image"] = h5py.ExternalLink(tmp_path / "secret.h5", "image")
    with h5py.File(tmp_path / "way.h5", "w") as file:
        file["there"] = h5py.ExternalLink(tmp_path / "secret.h5", "/")
        file["image"] = h5py.SoftLink("/there/image")
    with h5py.File(tmp_path / "external.h5", "w") as file:
        file.create_dataset("image", (2, 3, 4), "u1", external=[(tmp_path / "secret.raw", 0, 24)])
    with h5py.File(tmp_path / "virtual.h5", "w") as file:
        file.create_virtual_dataset("image", layout)
    for name in ("link.h5", "way.h5", "external.h5", "virtual.h5"):
        with pytest.raises(UnreadableError, match="not in this file"):
            check(tmp_path / name, 2**20)
    check(tmp_path / "secret.h5", 2**20)


def test_an_archive_that_would_fill_the_disk_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(2**21))
    check(tmp_path / "a.zip", 2**21)
    with pytest.raises(UnreadableError, match="unpacks to 2 MiB"):
        check(tmp_path / "a.zip", 2**20)
