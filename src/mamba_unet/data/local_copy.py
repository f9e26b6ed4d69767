"""A prepared data set copied to a disk of this machine, once for all processes and jobs that read it there."""

import hashlib
import shutil
from pathlib import Path

import numpy as np
from tqdm import tqdm

from mamba_unet.data.planning import FILE as PLAN
from mamba_unet.data.prepared import PreparedDataset
from mamba_unet.data.stored import REMEDY
from mamba_unet.files import atomic_path, one_at_a_time, remove_temporaries

DESCRIPTIONS = (PLAN, "splits.json", "dataset.json")  # the last one makes it a prepared data set


def local_copy(folder: str | Path, cache_dir: str | Path) -> Path:
    """Where the copy of a prepared data set lies, which is made if it is not there, or finished.

    Who comes while another process copies waits for it. A file takes its name once its content was found to be what
    dataset.json says. Other data, or another split of the same, are another copy; none is ever deleted. Another plan is
    not.

    Args:
        folder: that `prepare` wrote.
        cache_dir: on a disk of this machine; the copy is a folder in it.

    Raises:
        ValueError: the data set is damaged, or the disk has too little room.
        OSError: a file cannot be read or written.
    """
    prepared, cache_dir = PreparedDataset(folder), Path(cache_dir)
    described = [path for name in DESCRIPTIONS if (path := prepared.folder / name).is_file()]
    version = hashlib.sha256(b"".join(path.read_bytes() for path in described if path.name != PLAN)).hexdigest()[:16]
    target = cache_dir / version
    with one_at_a_time(cache_dir / f"{version}.lock"):
        arrays = prepared.arrays()
        missing = [name for name in arrays if not (target / name).is_file()]
        _require_room(prepared.folder, missing, cache_dir)
        for part in {Path(name).parent for name in missing}:
            remove_temporaries(target / part)
        for name in tqdm(missing, f"copy to {cache_dir}", unit="file", disable=None if missing else True):
            with atomic_path(target / name) as temporary:
                shutil.copyfile(prepared.folder / name, temporary)
                _check(prepared.folder / name, temporary, arrays[name])
        for path in described:
            copied = target / path.name
            if not (copied.is_file() and copied.read_bytes() == path.read_bytes()):
                with atomic_path(target / path.name) as temporary:
                    shutil.copyfile(path, temporary)
    return target


def _require_room(folder: Path, names: list[str], cache_dir: Path) -> None:
    size, free = sum((folder / name).stat().st_size for name in names), shutil.disk_usage(cache_dir).free
    if size > free:
        raise ValueError(
            f"--cache-dir {cache_dir}: {folder} needs {size / 2**30:,.1f} GiB more there, and {free / 2**30:,.1f} GiB "
            "are free; remove copies of other data, or train without --cache-dir"
        )


def _check(file: Path, copy: Path, sha256: str) -> None:
    try:
        found = hashlib.sha256(np.load(copy, mmap_mode="r", allow_pickle=False)).hexdigest()
    except (ValueError, EOFError) as error:
        raise ValueError(f"{file}: damaged ({error}); {REMEDY}") from error
    if found != sha256:
        raise ValueError(
            f"{file}: its content has the sha256 {found[:12]}..., and dataset.json says {sha256[:12]}...; {REMEDY}"
        )
