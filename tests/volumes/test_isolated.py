import os
import time
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mamba_unet.volumes import isolated
from mamba_unet.volumes.find import find_volumes
from mamba_unet.volumes.formats import UnreadableError
from mamba_unet.volumes.read import read_volume


@pytest.fixture
def reader():
    with isolated.Reader() as reader:
        yield reader


@pytest.fixture
def file(tmp_path) -> Path:
    stored = np.random.default_rng(0).integers(0, 999, (40, 30, 20), dtype=np.int16)
    nib.save(nib.Nifti1Image(stored, np.diag([1.5, 2, 8, 1])), tmp_path / "a.nii.gz")
    return tmp_path / "a.nii.gz"


def test_what_comes_back_is_what_is_read_here(reader, file, write_series, volume, tmp_path):
    write_series(tmp_path / "study", volume)
    for found in find_volumes([file, tmp_path / "study"]):
        here, there = found.read(), reader.read(found.read, found.path)
        assert np.array_equal(here.array, there.array) and here.array.dtype == there.array.dtype
        assert np.array_equal(here.affine, there.affine) and (here.name, here.source) == (there.name, there.source)
        assert there.array.flags.writeable
        if here.header is not None:
            assert here.header.binaryblock == there.header.binaryblock
        if here.dicom is not None:
            assert [one.SOPInstanceUID for one in here.dicom] == [one.SOPInstanceUID for one in there.dicom]


def test_one_process_reads_many_files_in_milliseconds(reader, file):
    reader.read(partial(read_volume, file), file)
    process, start = reader._process, time.perf_counter()
    for _ in range(20):
        reader.read(partial(read_volume, file), file)
    assert reader._process is process and time.perf_counter() - start < 20 * 0.2


def test_a_crash_is_one_sentence_and_the_next_file_is_read(reader, file):
    for crash, said in ((os.abort, "SIGABRT"), (partial(os._exit, 3), "exit code 3")):
        with pytest.raises(UnreadableError, match=rf"a\.nii\.gz: reading it ended the process.*{said}"):
            reader.read(crash, file)
        assert reader.read(partial(read_volume, file), file).shape == (20, 30, 40)


def test_what_takes_too_long_is_ended(file):
    with isolated.Reader(deadline_s=1) as reader:
        with pytest.raises(UnreadableError, match="not read within 1 s"):
            reader.read(partial(time.sleep, 60), file)
        reader.deadline_s = 60
        assert reader.read(partial(read_volume, file), file).shape == (20, 30, 40)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the system tells no sizes")
def test_what_takes_too_much_memory_is_refused(reader, file, monkeypatch):
    monkeypatch.setattr(isolated.limits, "max_bytes", 1 << 20)
    with pytest.raises(UnreadableError, match="needs more memory than the limit"):
        reader.read(partial(np.zeros, 1 << 40, np.uint8), file)


def test_errors_are_those_of_the_reader(reader, tmp_path):
    (tmp_path / "b.nii").write_bytes(b"x" * 400)
    with pytest.raises(UnreadableError, match=r"b\.nii: no NIfTI") as error:
        reader.read(partial(read_volume, tmp_path / "b.nii"), tmp_path / "b.nii")
    assert error.value.file == tmp_path / "b.nii"


def test_what_a_library_prints_does_not_get_between(reader, file):
    assert reader.read(partial(os.system, "echo noise"), file) == 0
    assert reader.read(partial(read_volume, file), file).shape == (20, 30, 40)


def test_nothing_is_left_running(file):
    with isolated.Reader() as reader:
        reader.read(partial(read_volume, file), file)
        process = reader._process
    assert process.poll() is not None
