"""The private folder of a server, deleted when the server ends; if it was killed, by the next one that starts."""

import os
import shutil
import tempfile
import weakref
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

PREFIX = "mamba-unet-serve-"


class ServerFolder:
    """A folder that only this user can read, locked as long as this process lives.

    Folders of this kind whose lock is free belong to servers that were killed. They hold patients' images and are
    deleted. A folder gets its lock before it gets the name by which others look for it, so that no server takes the
    new folder of another one for a dead one.

    Attributes:
        path: the folder.
    """

    def __init__(self) -> None:
        lock = None
        if fcntl is None:
            self.path = Path(tempfile.mkdtemp(prefix=PREFIX))
        else:
            for left in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
                if (free := _lock(left)) is not None:
                    shutil.rmtree(left, ignore_errors=True)
                    os.close(free)
            hidden = Path(tempfile.mkdtemp(prefix=f".{PREFIX}"))
            lock = _lock(hidden)
            self.path = hidden.rename(hidden.with_name(hidden.name[1:]))
        self.close = weakref.finalize(self, _remove, self.path, lock)  # at the end of the process at the latest


def _lock(folder: Path) -> int | None:
    """The open folder with its lock, which goes with this process; None where another process has it."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:  # another user's, or gone meanwhile
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _remove(path: Path, lock: int | None) -> None:
    shutil.rmtree(path, ignore_errors=True)
    if lock is not None:
        os.close(lock)
