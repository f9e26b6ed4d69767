import zipfile

import numpy as np
import pytest

from mamba_unet.volumes import limits
from mamba_unet.volumes.dicom.find import find_series
from mamba_unet.volumes.formats import UnreadableError


def test_a_zip_is_read_in_memory_and_its_names_lead_nowhere(read_only, write_series, tmp_path, volume):
    files = write_series(tmp_path / "files", volume)
    with zipfile.ZipFile(tmp_path / "image.zip", "w") as archive:
        for file in files:
            archive.write(file, f"../../{file.name}")
        archive.writestr("../readme.txt", "hello")
    before = sorted(tmp_path.rglob("*"))
    image = read_only(tmp_path / "image.zip")
    assert image.name == "image" and np.array_equal(image.array[0], volume)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_zip_that_unpacks_too_large_is_refused_before_it_is(write_series, tmp_path, volume, monkeypatch):
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(1 << 22))
    monkeypatch.setattr(limits, "max_bytes", 1 << 20)
    with pytest.raises(UnreadableError, match=r"bomb\.zip: needs .* GiB of memory, the limit is"):
        find_series(tmp_path / "bomb.zip")


def test_files_without_preamble_and_second_copies_are_read_once(read_only, write_series, tmp_path, volume):
    files = write_series(tmp_path, volume)
    for file in files:
        (tmp_path / f"{file.name}.copy").write_bytes(file.read_bytes())
    import pydicom

    for file in files:
        dataset = pydicom.dcmread(file)
        del dataset.file_meta
        dataset.preamble = None
        dataset.save_as(file, implicit_vr=True, little_endian=True)
    image = read_only(tmp_path)
    assert np.array_equal(image.array[0], volume)


def test_a_path_that_is_not_there_and_a_folder_without_images(tmp_path):
    with pytest.raises(UnreadableError, match="no such file or folder"):
        find_series(tmp_path / "nothing")
    (tmp_path / "a.txt").write_text("text")
    assert find_series(tmp_path) == []
