"""ACDC cardiac MRI: as the challenge ships it (NIfTI), and the HDF5 files of SSL4MIS and WSL4MIS."""

import contextlib
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mamba_unet.data.problems import Problem
from mamba_unet.data.readers.base import Entry, Layout, Listing, files, pair, stack
from mamba_unet.volumes.formats import stem

FRAME = re.compile(r"(patient\d+)_frame(\d+)")
UNMARKED = 4  # what a scribble of WSL4MIS does not mark
SLICE = re.compile(r"(patient\d+_frame\d+)_slice_?(\d+)")


def find_nifti(source: Path) -> Listing | None:
    """`training/patient001/patient001_frame01.nii.gz` with `_gt` beside it; `testing/` too where it is there."""
    roots = [root for root in (source, source / "database", source / "ACDC" / "database") if root.is_dir()]
    parts = [root / part for root in roots for part in ("training", "testing") if (root / part).is_dir()] or [source]
    patients = [
        folder for part in parts for folder in sorted(part.glob("patient*")) if files(folder, "patient*_frame*.nii*")
    ]
    if not patients:
        return None
    images, labels, problems, cine = [], [], [], 0
    for folder in patients:
        for file in files(folder, "patient*.nii*"):
            name = stem(file)
            if FRAME.fullmatch(name.removesuffix("_gt")):
                (labels if name.endswith("_gt") else images).append((name.removesuffix("_gt"), (file,)))
            elif name.endswith("_4d"):
                cine += 1
        problems += _frames_missing(folder)
    entries, unpaired = pair(images, labels)
    notes = [f"{cine} *_4d files are left alone: only end-diastole and end-systole are labelled"] if cine else []
    why = f"{len(patients)} folders patient*/ with *_frame*.nii(.gz)"
    return Listing(why, entries, [*problems, *unpaired], notes, dataset="acdc")


def _frames_missing(folder: Path) -> list[Problem]:
    """Info.cfg names the end-diastolic and the end-systolic frame; both should lie beside it."""
    info = folder / "Info.cfg"
    if not info.is_file():
        return []
    said = dict(re.findall(r"^(\w+)\s*:\s*(\S+)", info.read_text(encoding="utf-8", errors="replace"), re.MULTILINE))
    problems = []
    for phase in ("ED", "ES"):
        if said.get(phase, "").isdigit():
            identifier = f"{folder.name}_frame{int(said[phase]):02d}"
            if not files(folder, f"{identifier}*.nii*"):
                problems.append(
                    Problem(
                        folder,
                        "frame missing",
                        f"{identifier}, {phase} in Info.cfg",
                        "no such file",
                        "unpack the archive anew",
                        case=identifier,
                    )
                )
    return problems


def find_hdf5(source: Path) -> Listing | None:
    """Volumes `patient001_frame01.h5` if there are any, else the slices `patient001_frame01_slice_1.h5` joined."""
    for folder in (source, source / "data", source / "ACDC_training_volumes"):
        volumes = [(stem(file), (file,)) for file in files(folder, "patient*.h5") if FRAME.fullmatch(stem(file))]
        if volumes:
            entries, problems = pair(volumes, volumes)
            return Listing(
                f"{len(volumes)} files {_below(folder, source)}patient*_frame*.h5",
                _with_scribbles(entries),
                problems,
                dataset="acdc",
                unmarked=UNMARKED,
                splits=_lists(source),
            )
    for folder in (source, source / "data" / "slices", source / "slices", source / "ACDC_training_slices"):
        found = [
            (match[1], int(match[2]), file)
            for file in files(folder, "patient*.h5")
            if (match := SLICE.fullmatch(stem(file)))
        ]
        if found:
            volumes, problems = stack(found)
            entries, unpaired = pair(volumes, volumes)
            return Listing(
                f"{len(found)} files {_below(folder, source)}patient*_frame*_slice_*.h5",
                _with_scribbles(entries),
                [*problems, *unpaired],
                ["only slices are there: they are joined into volumes in their order"],
                dataset="acdc",
                unmarked=UNMARKED,
                splits=_lists(source),
            )
    return None


def _with_scribbles(entries: Sequence[Entry]) -> list[Entry]:
    """WSL4MIS' files hold scribbles too, by which Valvano et al. (2021) marked the challenge's images."""
    import h5py

    found = []
    for entry in entries:
        has_scribble = False
        with contextlib.suppress(OSError), h5py.File(entry.image[0][0], "r") as arrays:  # damage is told later
            has_scribble = "scribble" in arrays
        found.append(replace(entry, scribble=entry.image[0] if has_scribble else None))
    return found


def _below(folder: Path, source: Path) -> str:
    return "" if folder == source else f"{folder.relative_to(source).as_posix()}/"


def _lists(source: Path) -> dict[str, list[str]] | None:
    """SSL4MIS' `train.list` (or `train_slices.list`), `val.list` and `test.list`, as patients."""
    splits = {}
    for split in ("train", "val", "test"):
        for file in (source / f"{split}.list", source / f"{split}_slices.list"):
            if split not in splits and file.is_file():
                splits[split] = sorted(
                    set(re.findall(r"patient\d+", file.read_text(encoding="utf-8", errors="replace")))
                )
    return splits or None


NIFTI = Layout(
    "acdc-nifti",
    "ACDC as the challenge ships it: training/patient001/patient001_frame01.nii.gz and patient001_frame01_gt.nii.gz",
    find_nifti,
)
HDF5 = Layout(
    "acdc-hdf5",
    "ACDC as HDF5 (SSL4MIS, WSL4MIS): data/patient001_frame01.h5 or ACDC_training_volumes/patient001_frame01.h5, "
    "or only the slices, with datasets 'image' and 'label'",
    find_hdf5,
)
