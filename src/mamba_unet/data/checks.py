"""What can be wrong with a data set: the checks of one case and those across cases."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mamba_unet.data.classes import distinct
from mamba_unet.data.problems import SKIP, Problem
from mamba_unet.data.splits import Split
from mamba_unet.views.intensity import FINITE
from mamba_unet.views.labels import IGNORE
from mamba_unet.volumes.geometry import misplacement, through_plane
from mamba_unet.volumes.volume import Volume
from mamba_unet.words import some


def check_case(
    identifier: str,
    image_file: Path,
    image: Volume,
    label_file: Path | None,
    label: Volume | None,
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
        image, label: as stored; None for an image that has no label.
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
    if label is None:
        pass
    elif image.shape != label.shape:
        add(
            label_file,
            "image and label differ in shape",
            f"(D, H, W) = {image.shape} as the image",
            str(label.shape),
            "resample the label onto the image's grid with nearest neighbour",
        )
    elif elsewhere := _elsewhere("label", image, label):
        add(label_file, *elsewhere)

    for file, volume in ((image_file, image), (label_file, label)):
        for note in volume.notes if volume else ():
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
            f"{bad:,} of {image.array.size:,} pixels",
            FINITE,
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

    if label is None:
        return problems
    found = distinct(label.array)
    outside = [value for value in found if value not in values]
    if outside:
        expected = some([str(value) for value in values], 16)
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


def _elsewhere(kind: str, image: Volume, other: Volume) -> tuple[str, str, str, str] | None:
    """Problem, what is expected, what was found and the remedy where a label or scribble lies apart from its image."""
    distance = misplacement(image, other)
    if not distance > 0.1:
        return None
    return (
        f"image and {kind} differ in affine",
        "the same affine (within 0.1 voxel)",
        f"corners up to {distance:.3g} voxels apart",
        f"if the arrays match pixel by pixel, save the {kind} with the image's affine; else resample it",
    )


def check_scribble(
    identifier: str, file: Path, scribble: Volume, values: Mapping[int, int], label: np.ndarray | None, image: Volume
) -> list[Problem]:
    """Every problem of one case's scribble.

    Args:
        scribble: as stored.
        values: stored value -> class index, or IGNORE for what is not marked.
        label: class indices (D, H, W) of the case's label, if it has one.
        image: of the case.
    """

    def problem(what: str, expected: str, found: str, remedy: str, severity: str = "error") -> list[Problem]:
        return [Problem(file, what, expected, found, remedy, severity, identifier)]

    if scribble.shape != image.shape:
        return problem(
            "image and scribble differ in shape", f"(D, H, W) = {image.shape}", str(scribble.shape), "draw it anew"
        )
    if elsewhere := _elsewhere("scribble", image, scribble):
        return problem(*elsewhere)
    found = distinct(scribble.array)
    if outside := [value for value in found if value not in values]:
        return problem(
            "scribble values outside the classes",
            f"only {some([str(value) for value in values], 16)}",
            ", ".join(f"{value:g}" for value in outside[:8]),
            "correct the scribble; what is not marked has the value of the ignore label",
        )
    marked = {value for value in found if values[value] != IGNORE}
    if not marked:
        return problem("empty scribble", "some marked pixels", "none", "nothing, if it is meant", "warning")
    if len(marked) == len(found):
        unmarked = some([str(value) for value, index in values.items() if index == IGNORE])
        return problem(
            "a scribble that marks every pixel",
            f"some pixels that are not marked, of value {unmarked}",
            "none",
            f"if 0 stands for what is not marked, store it as {unmarked}, since 0 marks the background; else nothing",
            "warning",
        )
    if label is not None:
        array = scribble.grey[0]
        wrong = sum(int(((array == value) & (label != values[value]) & (label != IGNORE)).sum()) for value in marked)
        if wrong:
            total = int(np.isin(array, list(marked)).sum())
            return problem(
                "scribbles that contradict the label",
                "marks of the class that the label shows",
                f"{wrong} of {total} marked pixels",
                *(
                    ("see that the scribbles' values are those of the labels", "warning")
                    if 2 * wrong > total
                    else ("nothing: scribbles are drawn by hand", "note")
                ),
            )
    return []


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
    yield from _names(records)
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
                f"background only in {some(sorted(patients), 5)}",
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
                    f"{codes}: {some(identifiers, 5)}",
                    "reorient them before, if the network is to see them alike",
                    "warning",
                    identifiers[0],
                )


def _names(records: Mapping[str, Mapping[str, Any]]) -> Iterator[Problem]:
    """Values that the labels' own files call by different names, as of segments made in another order."""
    called: dict[int, dict[str, list[str]]] = {}
    for identifier, record in records.items():
        for value, name in enumerate(record.get("label_names", ())):
            if name != f"class {value}":  # no segment has it
                called.setdefault(value, {}).setdefault(name.strip().casefold(), []).append(identifier)
    for value, names in called.items():
        common = max(names, key=lambda name: len(names[name]))
        for name, identifiers in names.items():
            for identifier in identifiers if name != common else ():
                yield Problem(
                    Path(records[identifier]["sources"][0]),
                    "a label value has several names",
                    f"value {value} to be {common!r}, as in {some(names[common], 3)}",
                    f"value {value} is {name!r}",
                    "give all labels the same values (in Slicer: export them as labelmaps with one colour table)",
                    case=identifier,
                )


def _alike(records: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Case -> the first case with the same image, for every case that repeats another's."""
    first: dict[tuple[Any, str], str] = {}
    found = {
        identifier: first.setdefault((tuple(record["shape"]), record["image_sha256"]), identifier)
        for identifier, record in records.items()
    }
    return {identifier: original for identifier, original in found.items() if identifier != original}
