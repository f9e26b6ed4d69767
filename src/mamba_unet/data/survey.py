"""What a data set is, settled before its images are read, and the reading of one case by it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mamba_unet.data.case import Case
from mamba_unet.data.checks import SKIP, Problem, check_case
from mamba_unet.data.readers import Entry, Listing, detect_layout
from mamba_unet.data.registry import DATASETS, DatasetInfo
from mamba_unet.views.intensity import MINMAX, intensity_rule, normalise_intensity
from mamba_unet.volumes.formats import UnreadableError, read_volume

# More distinct values than this in the masks of a plain folder are no classes but grey levels or JPEG noise.
MOST_CLASSES = 64


@dataclass(frozen=True)
class Plan:
    """What is known before the images are read.

    Attributes:
        source, layout, listing: what was found where.
        info: what is known of the data set by its name, if it has one that is known.
        name, class_names, intensity: of the prepared data set.
        values: stored label value -> class index.
        notes: what was decided on the way.
    """

    source: Path
    layout: str
    listing: Listing
    info: DatasetInfo | None
    name: str
    class_names: Sequence[str]
    values: Mapping[int, int]
    intensity: dict[str, Any]
    notes: Sequence[str]


def survey(source: Path, dataset: str | None, layout: str | None, intensity: Mapping[str, Any] | None) -> Plan:
    """Recognise the layout and settle classes and intensities. Raises ValueError if they do not fit together."""
    found, listing = detect_layout(source, layout)
    if dataset is not None and dataset not in DATASETS:
        raise ValueError(f"unknown dataset {dataset!r}; expected one of {', '.join(DATASETS)}, or None for any other")
    info = DATASETS.get(dataset or listing.dataset)
    notes = list(listing.notes)
    if not listing.entries and not listing.problems:
        raise ValueError(f"{source}: laid out as {found.name} ({listing.why}), but there is no case in it")
    labels = listing.labels
    if info is None and labels is None:
        labels = _labels_found(listing.entries, source)
    if info is None:
        class_names, values = list(labels), {value: index for index, value in enumerate(labels.values())}
    else:
        class_names = list(info.class_names)
        if labels is not None and len(labels) != len(class_names):
            raise ValueError(
                f"{source} names {len(labels)} classes ({', '.join(labels)}), {info.name} has "
                f"{len(class_names)}: {', '.join(class_names)}; leave dataset out"
            )
        if labels is None:
            values = {value: value for value in range(len(class_names))}
        elif set(labels) == set(class_names):
            values = {value: class_names.index(name) for name, value in labels.items()}
        else:
            values = {value: index for index, value in enumerate(sorted(labels.values()))}
            pairs = ", ".join(f"{name} -> {class_names[values[value]]}" for name, value in labels.items())
            notes.append(f"classes are matched by their order: {pairs}")
    values |= dict.fromkeys(listing.other_values, 0)
    return Plan(
        source,
        found.name,
        listing,
        info,
        name=info.name if info else listing.name or source.resolve().name,
        class_names=class_names,
        values=dict(sorted(values.items())),
        intensity=intensity_rule(intensity or (info.intensity if info else listing.intensity) or MINMAX),
        notes=notes,
    )


def _labels_found(entries: Sequence[Entry], source: Path) -> dict[str, int]:
    """Nothing describes the classes: each value found in the labels is one, 0 is the background."""
    values = {0}
    for entry in entries:
        try:
            values.update(np.unique(read_volume(entry.label, "label").array).tolist())
        except UnreadableError:
            continue  # reported with the case
    whole = sorted(int(value) for value in values if np.isfinite(value) and value == int(value) and value >= 0)
    if len(whole) > MOST_CLASSES:
        raise ValueError(
            f"{source}: the masks hold {len(whole)} different values; expected at most {MOST_CLASSES}, one per class; "
            "save them without grey levels (PNG, not JPEG), or name the classes in a dataset.json"
        )
    return {"background" if value == 0 else f"label {value}": value for value in whole}


def examine(plan: Plan, entry: Entry) -> tuple[Case | None, list[Problem]]:
    """Read and check one case. The case is None if its arrays cannot be used."""
    volumes, problems = {}, []
    for key, files in (("image", entry.image), ("label", entry.label)):
        try:
            volumes[key] = read_volume(files, key)
        except UnreadableError as error:
            problems.append(
                Problem(error.file, "unreadable file", f"a readable {key}", error.reason, SKIP, case=entry.identifier)
            )
    if problems:
        return None, problems
    image, label = volumes["image"], volumes["label"]
    problems = check_case(
        entry.identifier,
        entry.image[0],
        image,
        entry.label[0],
        label,
        plan.values,
        scaled=plan.listing.scaled,
        empty_is_error=plan.info is not None and plan.info.every_case_labelled,
    )
    if any(problem.severity == "error" for problem in problems):
        return None, problems
    table = np.zeros(max(plan.values) + 1, np.uint8)
    table[list(plan.values)] = list(plan.values.values())
    scaled = image.array.astype(np.float32) if plan.listing.scaled else normalise_intensity(image.array, plan.intensity)
    case = Case(
        identifier=entry.identifier,
        patient=entry.patient,
        image=np.ascontiguousarray(scaled),
        label=np.ascontiguousarray(table[label.array.astype(np.intp)]),
        spacing_mm=image.spacing_mm,
        orientation=image.orientation,
        affine=image.affine,
        source=entry.image[0],
    )
    return case, problems
