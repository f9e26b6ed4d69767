"""What can be wrong with a data set: problems, their table, the checks of one case and those across cases."""

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mamba_unet.data.classes import distinct
from mamba_unet.data.splits import Split
from mamba_unet.views.labels import IGNORE
from mamba_unet.volumes.geometry import misplacement, through_plane
from mamba_unet.volumes.volume import Volume

SKIP = "repair or remove the file, or leave the case out (--skip-bad)"
SEVERITIES = ("error", "warning", "note")
WIDTH = 80


@dataclass(frozen=True)
class Problem:
    """What does not fit in one file, or in the data set as a whole.

    Attributes:
        file: the file at fault, or the folder or list where no single file is.
        problem: what is wrong, in few words.
        expected, found: the two things that do not agree.
        remedy: what the user can do.
        severity: "error" stops `prepare`, "warning" does not; a "note" is for the reader to know.
        case: the identifier of the case at fault; None if it concerns the data set as a whole.
    """

    file: Path
    problem: str
    expected: str
    found: str
    remedy: str
    severity: Literal["error", "warning", "note"] = "error"
    case: str | None = None


@dataclass(frozen=True)
class CheckReport:
    """Everything found in one pass over a data set.

    Attributes:
        source: the folder that was checked.
        layout: the name of its layout, and `why` it was taken for that.
        dataset: name of the data set, e.g. "acdc".
        class_names: [0] is the background.
        cases: identifiers of all the cases found, good and bad.
        problems: errors first.
        notes: what was decided on the way and is not a problem (files left alone, how the split came about).
    """

    source: Path
    layout: str
    why: str
    dataset: str
    class_names: Sequence[str]
    cases: Sequence[str]
    problems: Sequence[Problem] = field(default=())
    notes: Sequence[str] = field(default=())

    @property
    def errors(self) -> list[Problem]:
        return [problem for problem in self.problems if problem.severity == "error"]

    @property
    def warnings(self) -> list[Problem]:
        return [problem for problem in self.problems if problem.severity == "warning"]

    def table(self, most: int | None = 10) -> str:
        """Text for a terminal: what was found, then the problems in 80 columns, equal ones together.

        Args:
            most: so many files of equal problems are named; None: all.
        """
        lines = [
            f"{self.source}: {self.layout} ({self.why})",
            f"{self.dataset}, {len(self.cases)} cases, classes: {', '.join(self.class_names)}",
            *(f"note: {note}" for note in self.notes),
        ]
        groups: dict[tuple[str, ...], list[Problem]] = {}
        for p in self.problems:
            groups.setdefault((p.severity, p.problem, p.expected, p.remedy), []).append(p)
        for (severity, problem, expected, remedy), alike in groups.items():
            files = list(dict.fromkeys(_short(p.file, self.source) for p in alike))
            by_found: dict[str, list[str]] = {}
            for p in alike:
                by_found.setdefault(p.found, []).append(_short(p.file, self.source))
            found = [
                text if len(by_found) == 1 else f"{text} ({_some(names, 3)})"
                for text, names in list(by_found.items())[:most]
            ]
            more = len(by_found) - len(found)
            lines += [
                "",
                f"{severity}: {problem}" + (f" ({len(files)} files)" if len(files) > 1 else ""),
                *_row("file" if len(files) == 1 else "files", _some(files, most)),
                *_row("expected", expected),
                *_row("found", "; ".join(found) + (f"; {more} others" if more else "")),
                *_row("what to do", remedy),
            ]
        counts = (
            f"{len(rows)} {word}{'s' * (len(rows) != 1)}"
            for rows, word in ((self.errors, "error"), (self.warnings, "warning"))
        )
        return "\n".join([*map(_printable, lines), "", ", ".join(counts)])


class BadDataError(ValueError):
    """The data set has errors; `.report` holds all of them, the message shows them as a table."""

    def __init__(self, report: CheckReport):
        super().__init__(report.table() + "\nRefused. Repair the files, or leave the bad cases out with --skip-bad.")
        self.report = report


def check_case(
    identifier: str,
    image_file: Path,
    image: Volume,
    label_file: Path,
    label: Volume,
    values: Mapping[int, int],
    *,
    channels: int = 1,
    scaled: bool,
    empty_is_error: bool,
) -> list[Problem]:
    """Every problem of one case's arrays.

    Args:
        identifier: the case.
        image_file, label_file: named in the problems.
        image, label: as stored.
        values: stored label value -> class index, or IGNORE.
        channels: that the images of this data set have.
        scaled: the layout promises an image in 0..1 already.
        empty_is_error: whether a label without foreground is an error (every case of the data set shows an organ) or
            may be right (a warning).
    """
    problems: list[Problem] = []

    def add(file: Path, problem: str, expected: str, found: str, remedy: str, severity: str = "error") -> None:
        problems.append(Problem(file, problem, expected, found, remedy, severity, identifier))

    if image.channels != channels:
        add(
            image_file,
            "another number of channels",
            f"{channels}, as the other images",
            f"{image.channels}",
            "convert colours to grey values, or keep images of one kind",
        )
    if image.shape != label.shape:
        add(
            label_file,
            "image and label differ in shape",
            f"(D, H, W) = {image.shape} as the image",
            str(label.shape),
            "resample the label onto the image's grid with nearest neighbour",
        )
    elif (distance := misplacement(image, label)) > 0.1:
        add(
            label_file,
            "image and label differ in affine",
            "the same affine (within 0.1 voxel)",
            f"corners up to {distance:.3g} voxels apart",
            "if the arrays match pixel by pixel, save the label with the image's affine; else resample it",
        )

    for file, volume in ((image_file, image), (label_file, label)):
        for note in volume.notes:
            add(
                file,
                "doubtful header",
                "a header whose entries agree",
                note,
                "compare with how it was acquired; if this is wrong, correct the header",
                "warning",
            )

    axis = None if image.spacing_mm is None or image.shape[0] == 1 else through_plane(image.spacing_mm)
    if axis:
        add(
            image_file,
            "slices are cut across others than were acquired",
            "the largest spacing along Z, across which training cuts slices",
            f"{image.spacing_mm[axis]:g} mm along {'ZYX'[axis]}, {image.spacing_mm[0]:g} mm along Z",
            f"store image and label with {'ZYX'[axis]} as their third axis",
            "warning",
        )

    if not np.issubdtype(image.array.dtype, np.integer) and not np.isfinite(image.array).all():
        bad = int((~np.isfinite(image.array)).sum())
        add(
            image_file,
            "NaN or infinity in the image",
            "finite numbers",
            f"{bad} pixels",
            "replace them, or export anew",
        )
    else:
        low, high = image.array.min(), image.array.max()
        if low == high:
            add(image_file, "constant image", "more than one intensity", f"{low:g} everywhere", SKIP)
        elif scaled and not (-1e-4 <= low and high <= 1 + 1e-4):
            add(
                image_file,
                "image is not scaled",
                "values in 0..1, as this layout holds",
                f"{low:g}..{high:g}",
                "scale it as the layout does, or prepare the raw files",
            )

    found = distinct(label.array)
    outside = [value for value in found if value not in values]
    if outside:
        expected = _some([str(value) for value in values], 16)
        shown = ", ".join(f"{value:g}" for value in outside[:8]) + (", ..." if len(outside) > 8 else "")
        add(
            label_file,
            "label values outside the classes",
            f"only {expected}",
            shown,
            "correct the label; or, if these values are classes, name all (--class-names, or dataset.json: labels); "
            "if they are grey levels of one class, --binary-masks; if they mark pixels without ground truth, "
            "--ignore-label",
        )
    elif not any(0 < values[value] != IGNORE for value in found):
        add(
            label_file,
            "empty label",
            "some pixels of some class",
            "background only",
            "correct it, or leave the case out (--skip-bad)" if empty_is_error else "nothing, if nothing is to be seen",
            "error" if empty_is_error else "warning",
        )
    return problems


def duplicate_patients(records: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Patient -> the one patient that stands for all who share images with it, directly or through others."""
    joined: dict[str, str] = {}

    def standing_for(patient: str) -> str:
        while patient in joined:
            patient = joined[patient]
        return patient

    for identifier, original in _alike(records).items():
        a, b = standing_for(records[identifier]["patient"]), standing_for(records[original]["patient"])
        if a != b:
            joined[a] = b
    return {patient: standing_for(patient) for patient in joined}


def by_severity(problems: Iterable[Problem]) -> list[Problem]:
    """Errors first, then warnings and notes, each in their order."""
    return sorted(problems, key=lambda problem: SEVERITIES.index(problem.severity))


def check_across(
    records: Mapping[str, Mapping[str, Any]], split: Split | None, class_names: Sequence[str], source: Path
) -> Iterator[Problem]:
    """Problems that show only when cases are compared.

    Args:
        records: case -> what `prepare` notes of it.
        split: None if there is none.
        class_names: of the data set.
        source: its folder, named where no single file is at fault.
    """
    yield from _duplicates(records, split)
    yield from _orientations(records)
    yield from _voxels(records, split, class_names, source)


def _voxels(
    records: Mapping[str, Mapping[str, Any]], split: Split | None, class_names: Sequence[str], source: Path
) -> Iterator[Problem]:
    """What the labels of all cases together do not hold, and what they hold that is no class."""
    total: dict[int, int] = {}
    for record in records.values():
        for index, count in record["label_voxels"].items():
            total[int(index)] = total.get(int(index), 0) + count
    absent = [name for index, name in enumerate(class_names) if index and not total.get(index)]
    if absent and len(absent) < len(class_names) - 1:
        yield Problem(
            source,
            "classes that no label shows",
            "every class in some label",
            ", ".join(absent),
            "check the names and values of the classes; a network cannot learn what is never shown",
            "warning",
        )
    for name, patients in (split.patients if split else {}).items():
        shown = [record["label_voxels"] for record in records.values() if record["patient"] in set(patients)]
        labelled = any(0 < int(index) < IGNORE for voxels in shown for index in voxels)
        if shown and not labelled and name.rpartition("/")[2] in ("train", "val"):
            yield Problem(
                source,
                f"no foreground in {name}",
                "some class in some label of the split",
                f"background only in {_some(sorted(patients), 5)}",
                "another --seed or --split: training with such a split is refused",
                "warning",
            )
    if total.get(IGNORE):
        holders = sum(str(IGNORE) in record["label_voxels"] for record in records.values())
        yield Problem(
            source,
            "voxels without ground truth",
            "loss and metrics leave them out",
            f"{total[IGNORE]} voxels in {holders} labels, {100 * total[IGNORE] / sum(total.values()):.2g} % of all",
            "nothing, if they are meant",
            "note",
        )


def _duplicates(records: Mapping[str, Mapping[str, Any]], split: Split | None) -> Iterator[Problem]:
    """Images that are there more than once."""
    for identifier, original in _alike(records).items():
        here, there = (records[name]["patient"] for name in (identifier, original))
        apart = [f"{a} and {b}" for a, b in split.apart(here, there)] if split else []
        yield Problem(
            Path(records[identifier]["sources"][0]),
            "duplicate case",
            "every image once",
            f"the image of {original} again" + (f", in {'; '.join(apart)}" if apart else ""),
            "put both in one split, or remove one" if apart else "remove one, or let it be: both are in the same split",
            "error" if apart else "warning",
            identifier,
        )


def _orientations(records: Mapping[str, Mapping[str, Any]]) -> Iterator[Problem]:
    """Cases that lie otherwise than most."""
    orientations: dict[str, list[str]] = {}
    for identifier, record in records.items():
        orientations.setdefault(record["orientation"] or "unknown", []).append(identifier)
    if len(orientations) > 1:
        common = max(orientations, key=lambda codes: len(orientations[codes]))
        for codes, identifiers in orientations.items():
            if codes != common:
                yield Problem(
                    Path(records[identifiers[0]]["sources"][0]),
                    "orientation differs among cases",
                    f"{common}, as {len(orientations[common])} cases",
                    f"{codes}: {_some(identifiers, 5)}",
                    "reorient them before, if the network is to see them alike",
                    "warning",
                    identifiers[0],
                )


def _printable(text: str) -> str:
    """What would move the cursor, or cannot be written, by its code: names of files are others' words."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def _row(title: str, text: str) -> list[str]:
    return textwrap.wrap(
        f"  {title:<12}{_printable(text)}",
        WIDTH,
        subsequent_indent=" " * 14,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _some(names: Sequence[str], most: int | None) -> str:
    more = len(names) - len(names[:most])
    return ", ".join(names[:most]) + (f" and {more} more" if more else "")


def _short(file: Path, source: Path) -> str:
    return file.relative_to(source).as_posix() if file.is_relative_to(source) and file != source else str(file)


def _alike(records: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Case -> the first case with the same image, for every case that repeats another's."""
    first: dict[tuple[Any, str], str] = {}
    found = {
        identifier: first.setdefault((tuple(record["shape"]), record["image_sha256"]), identifier)
        for identifier, record in records.items()
    }
    return {identifier: original for identifier, original in found.items() if identifier != original}
