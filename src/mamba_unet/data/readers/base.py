"""What every reader gives: the cases that lie in a folder, by name, before any of them is read."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unicodedata import normalize

from mamba_unet.data.problems import SKIP, Problem
from mamba_unet.data.readers.patients import group_patients, patient_like
from mamba_unet.volumes.formats import ITK, NIFTI, PICTURES, dangles, ending

Files = tuple[Path, ...]  # the slices of one volume in order, usually one file

ENDINGS = (*NIFTI, *ITK, *PICTURES)
UNLABELLED = "unlabelled"  # a folder of images that are meant to have no label
SCRIBBLES = "scribbles"  # a folder of scribbles beside the labels; nnU-Net's layout says scribblesTr


@dataclass(frozen=True)
class Entry:
    """One case on disk.

    Attributes:
        identifier: unique in its data set.
        patient: whose cases must stay in one split.
        image: the files of each channel, in order; usually a tuple of one.
        label: None for an image without label.
        scribble: where the case has scribbles.
    """

    identifier: str
    patient: str
    image: tuple[Files, ...]
    label: Files | None
    scribble: Files | None = None

    @property
    def files(self) -> list[Path]:
        """All of them, each once."""
        groups = (*self.image, self.label or (), self.scribble or ())
        return list(dict.fromkeys(file for files in groups for file in files))


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
        ignore: the stored label value of voxels without ground truth.
        unmarked: the value of what a scribble does not mark; None: `ignore`.
        channel_names: one per channel; empty where nothing tells.
        frames_are_channels: the fourth axis of an image is its channels, not time.
        intensity: the rule for the images' intensities, or a list of one rule per channel; None: the data set's.
        scaled: the images are in 0..1 by that rule already.
        splits: split -> patients or cases, where the folder itself says so.
        image_hashes: case -> hash of its image where it was first prepared, by which a network that has seen it is
            known.
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
    ignore: int | None = None
    unmarked: int | None = None
    channel_names: Sequence[str] = ()
    frames_are_channels: bool = False
    intensity: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None
    scaled: bool = False
    splits: Mapping[str, Sequence[str]] | None = None
    image_hashes: Mapping[str, str] = field(default_factory=dict)


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


def files(folder: Path, pattern: str = "*") -> list[Path]:
    """Sorted files that match, without hidden ones (macOS leaves `._name` beside every file).

    Links to nothing are among them, so that their cases are told and not passed over.
    """
    found = (file for file in folder.glob(pattern) if not file.name.startswith("."))
    return sorted(file for file in found if file.is_file() or dangles(file))


def named(found: Iterable[Path]) -> list[tuple[str, Path]]:
    """(name without ending, file) of those that are images or labels by their ending.

    Names are compared as they look: "ö" may be one character, or an "o" and two dots as macOS writes it.
    """
    return [(normalize("NFC", file.name[: -len(end)]), file) for file in found if (end := ending(file, ENDINGS))]


def single(folder: Path) -> list[tuple[str, Files]]:
    """(name without ending, file) of the images or labels in a folder; none where there is no such folder."""
    return [(name, (file,)) for name, file in named(files(folder))] if folder.is_dir() else []


def pair(
    images: Iterable[tuple[str, Files | tuple[Files, ...]]],
    labels: Iterable[tuple[str, Files]],
    patients: Mapping[str, str] | None = None,
    unlabelled: Iterable[tuple[str, Files | tuple[Files, ...]]] | None = None,
) -> tuple[list[Entry], list[Problem]]:
    """Bring images and labels of the same identifier together; what has no partner, or two, is a problem.

    Args:
        images: (identifier, files of one channel, or of each of several channels).
        labels: (identifier, files).
        patients: identifier -> patient; None: by the names, see `group_patients`. An image without label is of the
            labelled patient whose name, or whose case's name, it begins with.
        unlabelled: images that are meant to have no label; None: the layout has no place for them.
    """
    problems: list[Problem] = []
    meant = list(unlabelled or ())
    alone = {identifier for identifier, _ in meant}
    each = [(identifier, files if isinstance(files[0], tuple) else (files,)) for identifier, files in (*images, *meant)]
    found = _unique("image", each, problems)
    image_files = {identifier: files for identifier, files in found.items() if identifier not in alone}
    label_files = _unique("label", [(identifier, (files,)) for identifier, files in labels], problems)
    for kind, other, own, partners in (
        ("image", "label", image_files, label_files),
        ("label", "image", label_files, image_files),
    ):
        for identifier in sorted(own.keys() - partners.keys()):
            movable = kind == "image" and unlabelled is not None and len(own[identifier]) == 1
            problems.append(
                Problem(
                    own[identifier][0][0],
                    f"{kind} without {other}",
                    f"one {other} for each {kind}",
                    f"no {other} of {identifier}",
                    f"add it, or take the {kind} away" + f", or move it to {UNLABELLED}/" * movable,
                    case=identifier,
                )
            )
    both = sorted(image_files.keys() & label_files.keys())
    grouped = group_patients([*both, *sorted(alone)])
    told = dict(patients or {})
    labelled = {one: told.get(one, grouped[one]) for one in both}
    like = {one: patient for one in alone if (patient := patient_like(one, labelled))}
    patients = grouped | like | told
    entries = [Entry(one, patients[one], found[one], label_files[one][0]) for one in both]
    entries += [Entry(one, patients[one], found[one], None) for one in sorted(alone)]
    return entries, problems


def not_looked_into(folder: Path) -> list[Problem]:
    """A warning of each folder in one whose files are read and whose folders are not."""
    inside = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    return [
        Problem(
            path,
            f"folder in {folder.name}",
            f"all files directly in {folder.name}",
            "a folder, which is not looked into",
            "move its files up; begin their names with the patient's",
            "warning",
        )
        for path in inside
        if not path.name.startswith((".", "__MACOSX"))
    ]


def with_scribbles(
    entries: Iterable[Entry], folder: Path, told: Iterable[Problem]
) -> tuple[list[Entry], list[Problem]]:
    """The entries with their scribbles in a folder, where it is there; a scribble of no case is a problem.

    Args:
        entries: the cases that are whole.
        folder: of scribbles.
        told: problems of the others, whose scribbles are no further fault.
    """
    problems = not_looked_into(folder)
    drawn = _unique("scribble", [(name, (file,)) for name, file in single(folder)], problems)
    entries, found = list(entries), {name: file for name, (file,) in drawn.items()}
    unknown = sorted(found.keys() - {entry.identifier for entry in entries} - {problem.case for problem in told})
    problems += [
        Problem(
            found[identifier][0],
            "scribble without image",
            f"names of images in {folder.name}",
            f"no image of {identifier}",
            "add it, or take the scribble away",
            case=identifier,
        )
        for identifier in unknown
    ]
    return [replace(entry, scribble=found.get(entry.identifier)) for entry in entries], problems


def join_channels(
    found: Iterable[tuple[str, str, Path]], channels: Sequence[str], name: Callable[[Path, str], Path]
) -> tuple[list[tuple[str, tuple[Files, ...]]], list[Problem]]:
    """Bring the channels of each case together, in the order of `channels`.

    Args:
        found: (identifier, channel, file).
        channels: those that every case should have.
        name: a file of the case, channel -> the file that should be there.

    Returns:
        The complete cases; and a problem, which names the file, for each channel that is missing or not expected.
    """
    cases: dict[str, dict[str, Path]] = {}
    problems = []
    for identifier, channel, file in found:
        if channel not in channels:
            problems.append(
                Problem(
                    file,
                    "unknown channel",
                    f"channels {', '.join(channels)}",
                    channel,
                    "describe it (dataset.json: channel_names), or remove the file",
                    case=identifier,
                )
            )
        elif channel in cases.setdefault(identifier, {}):
            problems.append(_duplicate("image", identifier, file, cases[identifier][channel]))
        else:
            cases[identifier][channel] = file
    for identifier, files_of in cases.items():
        problems += [
            Problem(
                name(next(iter(files_of.values())), channel),
                "channel missing",
                f"channels {', '.join(channels)} of every case",
                "no such file",
                "add the file, or leave the case out (--skip-bad)",
                case=identifier,
            )
            for channel in channels
            if channel not in files_of
        ]
    complete = [
        (identifier, tuple((files_of[channel],) for channel in channels))
        for identifier, files_of in sorted(cases.items())
        if len(files_of) == len(channels)
    ]
    return complete, problems


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


def _unique(
    kind: str, found: Iterable[tuple[str, tuple[Files, ...]]], problems: list[Problem]
) -> dict[str, tuple[Files, ...]]:
    unique: dict[str, tuple[Files, ...]] = {}
    for identifier, each in found:
        if identifier in unique:
            problems.append(_duplicate(kind, identifier, each[0][0], unique[identifier][0][0]))
        else:
            unique[identifier] = each
    return unique


def _duplicate(kind: str, identifier: str, file: Path, other: Path) -> Problem:
    return Problem(
        file,
        "duplicate case",
        f"one {kind} of each case",
        f"{other.name} is of case {identifier} too",
        "remove one of the two",
        case=identifier,
    )
