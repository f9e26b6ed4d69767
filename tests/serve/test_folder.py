import stat
import subprocess
import sys

import pytest

from mamba_unet.serve import folder
from mamba_unet.serve.folder import ServerFolder

pytest.importorskip("fcntl")


@pytest.fixture(autouse=True)
def temporary(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def test_what_a_killed_server_left_is_deleted_by_the_next_and_nothing_of_the_living(temporary):
    left, other = temporary / "mamba-unet-serve-killed", temporary / "another-program"
    (left / "0123" / "input").mkdir(parents=True)
    other.mkdir()
    living = ServerFolder()
    (living.path / "upload").touch()
    second = ServerFolder()
    assert (living.path / "upload").exists() and other.exists() and not left.exists()
    living.close()
    second.close()
    assert list(temporary.iterdir()) == [other]


def test_a_server_that_starts_at_the_same_moment_leaves_a_folder_alone_that_has_no_lock_yet(monkeypatch):
    lock, others = folder._lock, []

    def late(path):
        if not others:  # the folder has been made
            others.append(None)
            others.append(ServerFolder())
        return lock(path)

    monkeypatch.setattr(folder, "_lock", late)
    ours = ServerFolder()
    assert ours.path.is_dir() and others[1].path.is_dir()
    assert stat.S_IMODE(ours.path.stat().st_mode) == 0o700


@pytest.mark.slow
def test_many_servers_started_together_keep_their_folders(temporary):
    code = (
        f"import tempfile; tempfile.tempdir = {str(temporary)!r}\n"
        "from mamba_unet.serve.folder import ServerFolder\n"
        "for _ in range(200):\n    one = ServerFolder(); assert one.path.is_dir(); one.close()"
    )
    servers = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(4)]
    assert [server.wait(timeout=300) for server in servers] == [0] * 4
    assert not list(temporary.iterdir())
