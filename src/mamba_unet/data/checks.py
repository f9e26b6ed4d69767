"""What can be wrong with a data set: problems, their table, the checks of one case and those across cases."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mamba_unet.data.splits import Split
from mamba_unet.tables import Table
from mamba_unet.volumes.geometry import misplacement, through_plane
from mamba_unet.volumes.volume import Volume

SKIP = "repair or remove the file, or leave the case out (skip_bad)"


@dataclass(frozen=True)
class Problem:
    """One row of the table of problems.

    Attributes:
        file: the file at fault, or the folder or list where no single file is.
        problem: what is wrong, in few words.
        expected, found: the two things that do not agree.
        way_out: what the user can do.
        severity: "error" stops `prepare`, "warning" does not.
        case: the identifier of the case at fault; None if it concerns the data set as a whole.
    """

    file: Path
    problem: str
    expected: str
    found: str
    way_out: str
    severity: Literal["error", "warning"] = "error"
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

    def table(self) -> str:
        """Text for a terminal: what was found, then every problem in a row of its own."""
        lines = [
            f"{self.source}: {self.layout} ({self.why})",
            f"{self.dataset}, {len(self.cases)} cases, classes: {', '.join(self.class_names)}",
            *(f"note: {note}" for note in self.notes),
        ]
        if self.problems:
            header = ("severity", "file", "problem", "expected", "found", "what to do")
            rows = [
                (p.severity, _short(p.file, self.source), p.problem, p.expected, p.found, p.way_out)
                for p in self.problems
            ]
            lines += ["", Table(header, rows, left=range(len(header))).text(rule=True).rstrip()]
        lines += ["", f"{len(self.errors)} errors, {len(self.warnings)} warnings"]
        return "\n".join(lines)


class BadDataError(ValueError):
    """The data set has errors; `.report` holds all of them, the message shows them as a table."""

    def __init__(self, report: CheckReport):
        super().__init__(report.table() + "\nRefused. Repair the files, or leave the bad cases out with skip_bad.")
        self.report = report


def check_case(
    identifier: str,
    image_file: Path,
    image: Volume,
    label_file: Path,
    label: Volume,
    values: dict[int, int],
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
        values: stored label value -> class index.
        channels: that the images of this data set have.
        scaled: the layout promises an image in 0..1 already.
        empty_is_error: whether a label without foreground is an error (every case of the data set shows an organ) or
            may be right (a warning).
    """
    problems = []

    def add(file: Path, problem: str, expected: str, found: str, way_out: str, severity: str = "error") -> None:
        problems.append(Problem(file, problem, expected, found, way_out, severity, identifier))

    for note in image.notes:
        add(
            image_file,
            "odd header",
            "a header that agrees with itself",
            note,
            "nothing, if the note is right",
            "warning",
        )
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

    found = np.unique(label.array)
    outside = [value for value in found.tolist() if value not in values]
    if outside:
        expected = ", ".join(str(value) for value in values)
        shown = ", ".join(f"{value:g}" for value in outside[:8]) + (", ..." if len(outside) > 8 else "")
        add(
            label_file,
            "label values outside the classes",
            f"only {expected}",
            shown,
            "correct the label, or describe its values (dataset.json: labels)",
        )
    elif not any(values[value] for value in found.tolist()):
        add(
            label_file,
            "empty label",
            "some pixels of some class",
            "background only",
            "correct it, or leave the case out (skip_bad)" if empty_is_error else "nothing, if nothing is to be seen",
            "error" if empty_is_error else "warning",
        )
    return problems


def twins(records: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
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


def check_across(records: Mapping[str, Mapping[str, Any]], split: Split | None) -> Iterator[Problem]:
    """Problems that show only when cases are compared."""
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
                    f"{codes}: {', '.join(identifiers[:5])}"
                    + (f" and {len(identifiers) - 5} more" if len(identifiers) > 5 else ""),
                    "reorient them before, if the network is to see them alike",
                    "warning",
                    identifiers[0],
                )


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
