import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest

from mamba_unet.data import PreparedDataset, prepare
from mamba_unet.data import local_copy as module
from mamba_unet.data.local_copy import local_copy

CASES = 5


@pytest.fixture
def prepared(nnunet, tmp_path):
    return prepare(nnunet(CASES), tmp_path / "prepared", progress=False)


@pytest.fixture
def copied(monkeypatch):
    """Names of the files that are copied; where there are `limit` of them, the next one fails."""
    real, files, limit, lock = shutil.copyfile, [], [None], threading.Lock()

    def copyfile(source, target):
        with lock:
            files.append(source.name)
            if len(files) == limit[0]:
                raise KeyboardInterrupt
        return real(source, target)

    monkeypatch.setattr(module.shutil, "copyfile", copyfile)
    return files, limit


def test_the_copy_holds_the_same_and_needs_the_original_no_more(prepared, tmp_path):
    copy = PreparedDataset(local_copy(prepared.folder, tmp_path / "cache"))
    images = {name: np.array(prepared.case(name).image) for name in prepared.identifiers}
    shutil.rmtree(prepared.folder / "images")
    assert copy.fingerprint == prepared.fingerprint and copy.splits == prepared.splits
    for name, image in images.items():
        assert np.array_equal(copy.case(name).image, image) and copy.case(name).label is not None


def test_of_several_processes_one_copies_and_the_others_wait(prepared, tmp_path, copied):
    with ThreadPoolExecutor(4) as pool:  # a lock belongs to who opened its file, not to a process
        folders = list(pool.map(lambda _: local_copy(prepared.folder, tmp_path / "cache"), range(4)))
    assert len(set(folders)) == 1 and len(copied[0]) == 2 * CASES + 2


def test_a_copy_that_was_cut_short_is_finished_without_doing_anything_twice(prepared, tmp_path, copied):
    files, limit = copied
    limit[0] = 4
    with pytest.raises(KeyboardInterrupt):
        local_copy(prepared.folder, tmp_path / "cache")
    (part,) = (path for path in (tmp_path / "cache").iterdir() if path.is_dir())
    with pytest.raises(ValueError, match="expected a prepared data set"):
        PreparedDataset(part)
    limit[0] = None
    PreparedDataset(local_copy(prepared.folder, tmp_path / "cache"))
    assert len(files) == 1 + 2 * CASES + 2


def test_other_splits_of_the_same_data_are_another_copy(prepared, tmp_path):
    first = local_copy(prepared.folder, tmp_path / "cache")
    prepare(tmp_path / "nnunet", prepared.folder, seed=7, folds=3, progress=False)
    second = local_copy(prepared.folder, tmp_path / "cache")
    assert second != first and PreparedDataset(second).splits != PreparedDataset(first).splits


def test_a_file_that_is_not_what_the_data_set_says_is_named_and_not_kept(prepared, tmp_path):
    file = prepared.folder / "images" / "s3.npy"
    image = np.load(file)
    np.save(file, image + 1)
    with pytest.raises(ValueError, match=r"s3\.npy: its content has the sha256 .* prepare"):
        local_copy(prepared.folder, tmp_path / "cache")
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(ValueError, match=r"s3\.npy: damaged"):
        local_copy(prepared.folder, tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("*s3.npy"))
    np.save(file, image)
    assert np.array_equal(PreparedDataset(local_copy(prepared.folder, tmp_path / "cache")).case("s3").image, image)


def test_a_disk_without_room_is_said_before_anything_is_copied(prepared, tmp_path, monkeypatch):
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
    with pytest.raises(ValueError, match=r"GiB more there, and 0\.0 GiB are free"):
        local_copy(prepared.folder, tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("*.npy"))


def test_another_plan_of_the_same_data_is_no_other_copy(prepared, tmp_path):
    (prepared.folder / "plan.json").write_text("{}")
    first = local_copy(prepared.folder, tmp_path / "cache")
    (prepared.folder / "plan.json").write_text('{"a": 1}')
    assert local_copy(prepared.folder, tmp_path / "cache") == first
    assert (first / "plan.json").read_text() == '{"a": 1}'
