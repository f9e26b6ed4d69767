"""What a data set is, settled before its images are read, and the reading of one case by it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mamba_unet.data.case import Case
from mamba_unet.data.checks import SKIP, Problem, check_case
from mamba_unet.data.readers import Entry, Listing, detect_layout
from mamba_unet.data.registry import DATASETS, DatasetInfo
from mamba_unet.views.intensity import COLOUR, MINMAX, intensity_rules
from mamba_unet.views.preprocessing import Preprocessing
from mamba_unet.volumes.formats import UnreadableError
from mamba_unet.volumes.read import read_volume
from mamba_unet.volumes.volume import Volume, join_channels, join_slices

# More distinct values than this in the masks of a plain folder are no classes but grey levels or JPEG noise.
MOST_CLASSES = 64
PROBED = 12  # images read to know how many channels there are


@dataclass(frozen=True)
class Plan:
    """What is known before the images are read.

    Attributes:
        source, layout, listing: what was found where.
        info: what is known of the data set by its name, if it has one that is known.
        name, class_names: of the prepared data set.
        intensity: a rule for each channel.
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
    intensity: tuple[Mapping[str, Any], ...]
    notes: Sequence[str]


def survey(
    source: Path,
    dataset: str | None,
    layout: str | None,
    intensity: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None,
) -> Plan:
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
        intensity=_intensity(intensity or (info.intensity if info else listing.intensity), listing),
        notes=notes,
    )


def _intensity(
    rules: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None, listing: Listing
) -> tuple[Mapping[str, Any], ...]:
    """A rule for each channel of the images: as given, else 0 to 255 for colours and minimum to maximum for others.

    How many channels there are is known only from the images; a few are read for it, since some pictures of a data set
    in colours may be all grey.
    """
    channels, colours = 1, False
    for entry in listing.entries[:: max(1, len(listing.entries) // PROBED)][:PROBED]:
        try:
            image = read_image(entry, listing)
        except UnreadableError:
            continue  # reported with the case
        if image.channels > channels:
            channels, colours = image.channels, image.channels == 3 and image.array.dtype == np.uint8
    return intensity_rules(rules or (COLOUR if colours else MINMAX), channels)


def read_image(entry: Entry, listing: Listing) -> Volume:
    """The image of a case, its channels joined.

    Raises:
        UnreadableError: names the file.
    """
    image = join_channels([join_slices([read_volume(file) for file in files]) for files in entry.image])
    if listing.frames_are_channels and image.channels == 1:
        return image.frames_as_channels()
    return _one_frame(image)


def read_label(entry: Entry) -> Volume:
    """The label of a case. Raises UnreadableError that names the file."""
    return _one_frame(join_slices([read_volume(file, "label") for file in entry.label]))


def _one_frame(volume: Volume) -> Volume:
    if volume.frames > 1:
        shape = (volume.frames, *volume.shape)
        raise UnreadableError(
            volume.where, f"{volume.frames} frames of shape {shape[1:]}: expected one 3D volume; save each frame apart"
        )
    return volume


def _labels_found(entries: Sequence[Entry], source: Path) -> dict[str, int]:
    """Nothing describes the classes: each value found in the labels is one, 0 is the background."""
    values = {0}
    for entry in entries:
        try:
            values.update(np.unique(read_label(entry).array).tolist())
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
    for key, read in (("image", lambda: read_image(entry, plan.listing)), ("label", lambda: read_label(entry))):
        try:
            volumes[key] = read()
        except UnreadableError as error:
            problems.append(
                Problem(error.file, "unreadable file", f"a readable {key}", error.reason, SKIP, case=entry.identifier)
            )
    if problems:
        return None, problems
    image, label = volumes["image"], volumes["label"]
    if image.channels == 1 and len(plan.intensity) == 3:  # a grey picture among pictures in colours
        image = replace(image, array=np.repeat(image.array, 3, axis=1))
    problems = check_case(
        entry.identifier,
        entry.image[0][0],
        image,
        entry.label[0],
        label,
        plan.values,
        channels=len(plan.intensity),
        scaled=plan.listing.scaled,
        empty_is_error=plan.info is not None and plan.info.every_case_labelled,
    )
    if any(problem.severity == "error" for problem in problems):
        return None, problems
    table = np.zeros(max(plan.values) + 1, np.uint8)
    table[list(plan.values)] = list(plan.values.values())
    array = image.array[0]  # (C, D, H, W)
    try:
        scaled = array.astype(np.float32) if plan.listing.scaled else Preprocessing(plan.intensity).scale_frame(array)
    except ValueError as error:
        found = Problem(entry.image[0][0], "intensities", "numbers that float32 holds", str(error), SKIP)
        return None, [*problems, replace(found, case=entry.identifier)]
    case = Case(
        identifier=entry.identifier,
        patient=entry.patient,
        image=np.ascontiguousarray(scaled),
        label=np.ascontiguousarray(table[label.grey[0].astype(np.intp)]),
        spacing_mm=image.spacing_mm,
        orientation=image.orientation,
        affine=image.affine,
        sources=tuple(files[0] for files in entry.image),
        frames_are_channels=plan.listing.frames_are_channels,
    )
    return case, problems
