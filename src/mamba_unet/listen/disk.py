"""What a node does with the disk beside writing files."""

import os
import secrets
import shutil
from pathlib import Path


def remove_folder(folder: Path) -> None:
    """A folder, under a hidden name first: what a kill leaves of it is no series."""
    hidden = folder.with_name(f".{secrets.token_hex(8)}")
    folder.rename(hidden)
    shutil.rmtree(hidden, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Put the names in a folder on the disk; Windows does so by itself."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
