import errno
import json
import os

import pytest

from mamba_unet.files import atomic_path, read_json, read_record, remove_temporaries, write_json, write_json_once


def test_an_error_while_writing_leaves_the_file_that_was_there_and_nothing_else(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("before")
    with pytest.raises(KeyError), atomic_path(target) as temporary:
        temporary.write_text("half")
        raise KeyError
    assert target.read_text() == "before" and list(tmp_path.iterdir()) == [target]


def test_the_content_is_on_the_disk_before_it_takes_the_name(tmp_path, monkeypatch):
    """Else a machine that loses its power, or a disk found full late, leaves an empty file under the name."""
    order = []
    sync, rename = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: (order.append(os.fstat(file).st_size), sync(file)))
    monkeypatch.setattr(os, "replace", lambda *paths: (order.append("renamed"), rename(*paths)))
    with atomic_path(tmp_path / "a.txt") as temporary:
        temporary.write_text("12345")
    assert order == [5, "renamed"]


def test_what_was_there_is_kept_under_another_name_once_the_new_file_is_whole(tmp_path, monkeypatch):
    target, kept = tmp_path / "a.txt", tmp_path / "before.txt"
    for text in ("first", "second", "third"):
        with atomic_path(target, keep=kept) as temporary:
            temporary.write_text(text)
    assert (kept.read_text(), target.read_text()) == ("second", "third")

    def full(file):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left"), atomic_path(target, keep=kept) as temporary:
        temporary.write_text("fourth")
    assert (kept.read_text(), target.read_text()) == ("second", "third")


def test_a_record_that_cannot_be_read_is_none_and_another_file_is_named(tmp_path):
    file = tmp_path / "a.json"
    assert read_record(file) == {}
    for text in ("", '{"a": ', "[1]", "\0\0", "[" * 100_000):
        file.write_text(text)
        assert read_record(file) == {}
        with pytest.raises(ValueError, match=r"a\.json: damaged, .*; copy it again$"):
            read_json(file, "copy it again")
    write_json(file, {"a": 1})
    assert read_record(file) == read_json(file, "") == {"a": 1}


def test_the_temporary_name_keeps_the_suffixes(tmp_path):
    with atomic_path(tmp_path / "new" / "a.nii.gz") as temporary:
        assert temporary.name.endswith(".nii.gz") and temporary.parent == tmp_path / "new"
        temporary.touch()
    assert (tmp_path / "new" / "a.nii.gz").exists()


def test_two_writers_of_one_file_do_not_disturb_each_other(tmp_path):
    """Machines that share a folder may give their processes the same number."""
    with atomic_path(tmp_path / "a.txt") as first, atomic_path(tmp_path / "a.txt") as second:
        first.write_text("first")
        second.write_text("second")
    assert (tmp_path / "a.txt").read_text() == "first" and list(tmp_path.iterdir()) == [tmp_path / "a.txt"]


def test_a_full_disk_is_told_with_the_file_that_did_not_fit(tmp_path):
    with pytest.raises(OSError, match=r"No space left on device.*a\.txt"), atomic_path(tmp_path / "a.txt"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_what_numpy_says_of_a_full_disk_is_told_with_the_file_too(tmp_path):
    with (
        pytest.raises(OSError, match=r"a\.npy could not be written; is the disk full"),
        atomic_path(tmp_path / "a.npy"),
    ):
        raise OSError("99456 requested and 992 written")
    with pytest.raises(OSError, match=r"^another sentence$"), atomic_path(tmp_path / "a.npy"):
        raise OSError("another sentence")


def test_of_two_writers_the_first_one_has_the_file(tmp_path, monkeypatch):
    assert write_json_once(tmp_path / "a.json", {"by": 1}) and not write_json_once(tmp_path / "a.json", {"by": 2})
    assert read_json(tmp_path / "a.json", "") == {"by": 1} and [*tmp_path.iterdir()] == [tmp_path / "a.json"]

    def no_links(*_):
        raise PermissionError

    monkeypatch.setattr(os, "link", no_links)
    assert write_json_once(tmp_path / "b.json", {"by": 1})
    assert read_json(tmp_path / "b.json", "") == {"by": 1}


def test_json_has_no_nan(tmp_path):
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert not list(tmp_path.iterdir())


def test_names_as_long_as_a_disk_allows_are_written(tmp_path):
    for name in ("x" * 248 + ".nii.gz", "\u60a3" * 80 + ".json"):
        with atomic_path(tmp_path / name) as temporary:
            temporary.write_text("done")
        assert (tmp_path / name).read_text() == "done"


def test_half_a_character_of_a_files_name_is_kept_in_json(tmp_path):
    write_json(tmp_path / "a.json", {"name": "a\udcff"})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"name": "a\udcff"}


def test_what_killed_processes_left_is_removed_and_what_is_being_written_is_not(tmp_path):
    names = (".0a1b2c3d.a.json", ".1a1b2c3d.b.json", ".keep", "c.json")
    for name in names:
        (tmp_path / name).touch()
    os.utime(tmp_path / names[0], (0, 0))
    remove_temporaries(tmp_path, older_than_s=60)
    assert {path.name for path in tmp_path.iterdir()} == {*names[1:]}
    remove_temporaries(tmp_path)
    remove_temporaries(tmp_path / "absent")
    assert {path.name for path in tmp_path.iterdir()} == {*names[2:]}
