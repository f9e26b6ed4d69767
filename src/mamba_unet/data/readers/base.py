"""What every reader gives: the cases that lie in a folder, by name, before any of them is read."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mamba_unet.data.checks import SKIP, Problem

Files = tuple[Path, ...]

# `patient001_frame12`, `p7-slice-003`: what follows the patient's name when one patient has several files.
PART_OF_PATIENT = re.compile(r"([_-](frame|slice|phase|time)[_-]?\d+)+$", re.IGNORECASE)


@dataclass(frozen=True)
class Entry:
    """One case on disk.

    Attributes:
        identifier: unique in its data set.
        patient: groups the cases that must stay in one split.
        image: of each channel, in order, its files (several where a volume is stored slice by slice, in order).
        label: its files; None of an image without a label.
    """

    identifier: str
    patient: str
    image: tuple[Files, ...]
    label: Files | None


@dataclass(frozen=True)
class Listing:
    """What a reader found in a folder.

    Attributes:
        why: the evidence for this layout.
        entries: complete cases.
        problems: what the names alone show: missing partners, duplicates.
        notes: what was left alone, and why.
        dataset: the data set's name in the registry, or "generic".
        name, description: what the data says of itself.
        labels: class name -> stored label value, where the layout knows it; None: to be taken from the files.
        other_values: stored label values that are right but no class: they become background.
        channel_names: of the images' channels, in order; empty where nothing names them.
        ignore: the stored label value of pixels without ground truth, where there is one.
        frames_are_channels: the fourth axis of an image is its channels, not time.
        intensity: the rule for the images' intensities, or a list of one for each channel; None: the data set's.
        scaled: the images are in 0..1 by that rule already.
        splits: split -> patients, where the folder itself says so.
    """

    why: str
    entries: Sequence[Entry]
    problems: Sequence[Problem] = ()
    notes: Sequence[str] = ()
    dataset: str = "generic"
    name: str | None = None
    description: str = ""
    labels: Mapping[str, int] | None = None
    other_values: Sequence[int] = ()
    channel_names: Sequence[str] = ()
    ignore: int | None = None
    frames_are_channels: bool = False
    intensity: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None
    scaled: bool = False
    splits: Mapping[str, Sequence[str]] | None = None


@dataclass(frozen=True)
class Layout:
    """A way to lay out a data set on disk.

    Attributes:
        name: as `--layout` takes it.
        needs: the files it consists of, for a user whose folder was not recognised.
        find: folder -> what lies there, or None if the folder is not laid out so.
    """

    name: str
    needs: str
    find: Callable[[Path], Listing | None] = field(repr=False)


def patient_of(identifier: str) -> str:
    """`patient001_frame01` -> `patient001`; a name without such an ending is a patient of its own."""
    return PART_OF_PATIENT.sub("", identifier) or identifier


def files(folder: Path, pattern: str = "*") -> list[Path]:
    """Sorted files that match, without hidden ones (macOS leaves `._name` beside every file)."""
    return sorted(file for file in folder.glob(pattern) if file.is_file() and not file.name.startswith("."))


def pair(
    images: Iterable[tuple[str, Files]], labels: Iterable[tuple[str, Files]], patient: Callable[[str], str] = patient_of
) -> tuple[list[Entry], list[Problem]]:
    """Bring images and labels of the same identifier together; what has no partner, or two, is a problem."""
    problems: list[Problem] = []
    image_files, label_files = _unique("image", images, problems), _unique("label", labels, problems)
    for kind, other, own, partners in (
        ("image", "label", image_files, label_files),
        ("label", "image", label_files, image_files),
    ):
        for identifier in sorted(own.keys() - partners.keys()):
            problems.append(
                Problem(
                    own[identifier][0],
                    f"{kind} without {other}",
                    f"a {other} of case {identifier}",
                    "none",
                    f"add it, or take the {kind} away",
                    case=identifier,
                )
            )
    entries = [
        Entry(identifier, patient(identifier), (image_files[identifier],), label_files[identifier])
        for identifier in sorted(image_files.keys() & label_files.keys())
    ]
    return entries, problems


def stack(slices: Iterable[tuple[str, int, Path]]) -> tuple[list[tuple[str, Files]], list[Problem]]:
    """Join (identifier, slice number, file) into volumes in the order of the numbers; a gap is a problem."""
    volumes: dict[str, list[tuple[int, Path]]] = {}
    for identifier, number, file in slices:
        volumes.setdefault(identifier, []).append((number, file))
    problems = []
    for identifier, parts in volumes.items():
        parts.sort()
        numbers = [number for number, _ in parts]
        gaps = sorted(set(range(numbers[0], numbers[-1] + 1)) - set(numbers))
        if gaps:
            problems.append(
                Problem(
                    parts[0][1].parent,
                    "slice missing",
                    f"slices {numbers[0]}..{numbers[-1]} of {identifier}",
                    f"no slice {', '.join(map(str, gaps))}",
                    SKIP,
                    case=identifier,
                )
            )
    return [(identifier, tuple(file for _, file in parts)) for identifier, parts in sorted(volumes.items())], problems


def _unique(kind: str, found: Iterable[tuple[str, Files]], problems: list[Problem]) -> dict[str, Files]:
    unique: dict[str, Files] = {}
    for identifier, paths in found:
        if identifier in unique:
            problems.append(
                Problem(
                    paths[0],
                    "duplicate case",
                    f"one {kind} of case {identifier}",
                    f"also {unique[identifier][0]}",
                    "remove one of the two",
                    case=identifier,
                )
            )
        else:
            unique[identifier] = paths
    return unique
