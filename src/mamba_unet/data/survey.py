"""What a data set is, settled before its images are read, and the reading of one case by it.

All files are read in the process of a `volumes.isolated.Reader`: one at which a library crashes is one bad case.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mamba_unet.data.case import Case
from mamba_unet.data.checks import check_case, check_scribble
from mamba_unet.data.classes import LARGEST, MOST_CLASSES, Classes, binary, collect, declared, foreground, infer
from mamba_unet.data.problems import SKIP, Problem
from mamba_unet.data.readers import Entry, Listing, detect_layout
from mamba_unet.data.readers.patients import describe_patients, doubtful_beginnings, match_patients
from mamba_unet.data.registry import DATASETS, DatasetInfo
from mamba_unet.views.intensity import COLOUR, MINMAX, intensity_quantiles, intensity_rules
from mamba_unet.views.labels import IGNORE
from mamba_unet.views.preprocessing import Preprocessing
from mamba_unet.volumes.formats import Kind, UnreadableError
from mamba_unet.volumes.isolated import Reader
from mamba_unet.volumes.read import read_volume
from mamba_unet.volumes.volume import Volume, join_channels, join_slices
from mamba_unet.words import some

PROBED = 12  # images read to know how many channels there are


@dataclass(frozen=True)
class Plan:
    """What is known before the images are read.

    Attributes:
        source, layout, listing: what was found where.
        info: what is known of the data set by its name, if it has one that is known.
        name: of the prepared data set.
        intensity: a rule for each channel.
        classes: how stored label values become class indices.
        scribble_values: the same of scribbles: stored value -> class index, or IGNORE; empty where there are none.
        notes: what was decided on the way.
    """

    source: Path
    layout: str
    listing: Listing
    info: DatasetInfo | None
    name: str
    classes: Classes
    intensity: tuple[Mapping[str, Any], ...]
    notes: Sequence[str]
    scribble_values: Mapping[int, int] = field(default_factory=dict)

    @property
    def empty_is_error(self) -> bool:
        """Whether a label without foreground is refused; else it is told."""
        return self.info is not None and self.info.every_case_labelled


def survey(
    source: Path,
    dataset: str | None,
    layout: str | None,
    intensity: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None,
    reader: Reader,
    *,
    patient_regex: str | None = None,
    class_names: Sequence[str] | None = None,
    binary_masks: bool | float = False,
    ignore_label: int | None = None,
) -> Plan:
    """Recognise the layout and settle patients, classes and intensities; the arguments are those of `prepare`.

    Raises:
        ValueError: they do not fit together, or the masks do not plainly show classes.
    """
    found, listing = detect_layout(source, layout)
    if dataset is not None and dataset not in DATASETS:
        raise ValueError(f"unknown dataset {dataset!r}; expected one of {', '.join(DATASETS)}, or None for any other")
    info = DATASETS.get(dataset or listing.dataset)
    if not listing.entries and not listing.problems:
        raise ValueError(f"{source}: laid out as {found.name} ({listing.why}), but there is no case in it")
    listing, patients_note = _with_patients(listing, patient_regex)
    names = foreground(class_names)
    if info is not None and (names is not None or binary_masks is not False):
        raise ValueError(
            f"{info.name} has its classes: {', '.join(info.class_names)}; leave --class-names and --binary-masks out"
        )
    ignore = listing.ignore if ignore_label is None else ignore_label
    notes = [*listing.notes, *([patients_note] if patients_note else [])]
    if info is not None:
        classes, note = _known(info, listing.labels, source)
        notes += [note] if note else []
    elif binary_masks is not False:
        classes, note = _binary(listing, reader, names, None if binary_masks is True else float(binary_masks), ignore)
        notes.append(note)
    elif listing.labels is not None:
        classes = _classes(declared(listing.labels, names))
    else:
        classes = _classes(infer(collect(_labels(listing.entries, reader)), names, ignore))
        notes += [] if names else ["classes are named by their values; --class-names NAME ... gives them names"]
    return Plan(
        source,
        found.name,
        listing,
        info,
        name=info.name if info else listing.name or source.resolve().name,
        classes=_completed(classes, listing.other_values, ignore),
        intensity=_intensity(intensity or (info.intensity if info else listing.intensity), listing, reader),
        notes=notes,
        scribble_values=_scribble_values(listing, classes, ignore),
    )


def _scribble_values(listing: Listing, classes: Classes, ignore: int | None) -> dict[int, int]:
    """Raises ValueError if there are scribbles and nothing says which value is no mark."""
    drawn = [entry.scribble for entry in listing.entries if entry.scribble]
    if not drawn:
        return {}
    unmarked = listing.unmarked if listing.unmarked is not None else ignore
    if unmarked is None:
        raise ValueError(
            f"{drawn[0][0]}: scribbles need a value for what is not marked, since 0 marks the background; say it in "
            'dataset.json ("labels": {"background": 0, ..., "ignore": VALUE}) or by --ignore-label VALUE'
        )
    return dict(sorted({**classes.values, unmarked: IGNORE}.items()))


def _intensity(
    rules: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None, listing: Listing, reader: Reader
) -> tuple[Mapping[str, Any], ...]:
    """A rule for each channel of the images: as given, else 0 to 255 for colours and minimum to maximum for others.

    How many channels there are is known by their names, or only from the images; a few are read for it, since some
    pictures of a data set in colours may be all grey.
    """
    channels, colours = 1, False
    for entry in listing.entries[:: max(1, len(listing.entries) // PROBED)][:PROBED]:
        try:
            image = read_image(entry, listing, reader)
        except UnreadableError:
            continue  # reported with the case
        if image.channels > channels:
            channels, colours = image.channels, image.channels == 3 and image.array.dtype == np.uint8
    return intensity_rules(rules or (COLOUR if colours else MINMAX), len(listing.channel_names) or channels)


def _with_patients(listing: Listing, regex: str | None) -> tuple[Listing, str]:
    """The listing with the patients that the user's expression finds, and a note on how its cases are grouped."""
    if not listing.entries:
        return listing, ""
    identifiers = [entry.identifier for entry in listing.entries]
    if regex is None:
        patients = {entry.identifier: entry.patient for entry in listing.entries}
        how = "by their folders and names (--patient-regex groups otherwise)"
        listing = replace(listing, problems=[*listing.problems, *_doubtful_patients(patients, listing)])
    else:
        patients, how = match_patients(identifiers, regex), "by --patient-regex"
    entries = [replace(entry, patient=patients[entry.identifier]) for entry in listing.entries]
    return replace(listing, entries=entries), describe_patients(patients, how)


def _doubtful_patients(patients: Mapping[str, str], listing: Listing) -> list[Problem]:
    """A warning where names look as if cases of one patient were taken for several: such a split would leak."""
    doubtful, regex = doubtful_beginnings(patients)
    if not doubtful:
        return []
    beginning, cases = next(iter(doubtful.items()))  # one shows what the others are like
    return [
        Problem(
            listing.entries[0].files[0].parent,
            "images of one patient may be in several splits",
            "all images of a patient in one split",
            f"names that begin alike, as {some(cases, 3)}, are taken for different patients",
            f"if they are of patient {beginning}, --patient-regex '{regex}'; else nothing",
            "warning",
        )
    ]


def _known(info: DatasetInfo, labels: Mapping[str, int] | None, source: Path) -> tuple[Classes, str]:
    """The classes of a known data set; and how the names in the files were matched to them, if they differ."""
    names, note = list(info.class_names), ""
    if labels is not None and len(labels) != len(names):
        raise ValueError(
            f"{source} names {len(labels)} classes ({', '.join(labels)}), {info.name} has "
            f"{len(names)}: {', '.join(names)}; leave dataset out"
        )
    if labels is None:
        values = {value: value for value in range(len(names))}
    elif set(labels) == set(names):
        values = {value: names.index(name) for name, value in labels.items()}
    else:
        values = {value: index for index, value in enumerate(sorted(labels.values()))}
        pairs = ", ".join(f"{name} -> {names[values[value]]}" for name, value in labels.items())
        note = f"classes are matched by their order: {pairs}"
    return Classes(names, values), note


def _binary(
    listing: Listing, reader: Reader, names: Sequence[str] | None, threshold: float | None, ignore: int | None
) -> tuple[Classes, str]:
    """One class, of all stored values from a threshold on."""
    described = list(listing.labels or ())[1:]
    names = names or described or ["foreground"]
    if len(names) != 1:
        raise ValueError(f"--binary-masks makes one class, but {len(names)} are named: {', '.join(names)[:200]}")
    found = collect(_labels(listing.entries, reader))
    white, threshold = binary(found, threshold, ignore)
    note = f"binary masks: values from {threshold:g} on are {names[0]!r}, others background; {found.describe(4)}"
    return Classes(["background", names[0]], {0: 0, white: 1}, threshold), note


def _classes(labels: Mapping[str, int]) -> Classes:
    if len(labels) > MOST_CLASSES + 1:
        raise ValueError(f"{len(labels) - 1} classes; expected at most {MOST_CLASSES}, besides the background")
    return Classes(list(labels), {value: index for index, value in enumerate(labels.values())})


def _completed(classes: Classes, other_values: Sequence[int], ignore: int | None) -> Classes:
    """With the values that are no class: those that become background, and the one without ground truth."""
    values = {**classes.values, **dict.fromkeys(other_values, 0)}
    if ignore is not None:
        if ignore in classes.values:
            name = classes.names[classes.values[ignore]]
            raise ValueError(f"--ignore-label {ignore}: this value is class {name!r}; expected one that is no class")
        if not 0 < ignore <= LARGEST:
            raise ValueError(f"--ignore-label {ignore}: expected a whole number of 1..{LARGEST}")
        values[ignore] = IGNORE
    return replace(classes, values=dict(sorted(values.items())))


def _labels(entries: Sequence[Entry], reader: Reader) -> Iterator[tuple[Path, np.ndarray]]:
    """(file, array) of every label that can be read; the others are reported with their cases."""
    for entry in entries:
        if entry.label is None:
            continue
        try:
            yield entry.label[0], _read(entry.label, "label", reader).grey[0]
        except UnreadableError:
            continue


def read_image(entry: Entry, listing: Listing, reader: Reader) -> Volume:
    """The image of a case, its channels joined. Raises UnreadableError that names the file."""
    channels = [_read(files, "image", reader, frames=listing.frames_are_channels) for files in entry.image]
    image = join_channels(channels)
    return image.frames_as_channels() if listing.frames_are_channels and image.channels == 1 else image


def read_label(entry: Entry, reader: Reader) -> Volume:
    """The label of a case as stored. Raises UnreadableError that names the file."""
    return _read(entry.label, "label", reader)


def _read(files: Sequence[Path], kind: Kind, reader: Reader, frames: bool = False) -> Volume:
    """One channel, or a label; what is no array of numbers, or too large for the memory, is an `UnreadableError` too.

    Args:
        files: one, or the slices of a volume in order.
        kind: "image" or "label".
        reader: the process that reads.
        frames: whether several frames are right.
    """
    try:
        volume = join_slices([reader.read(partial(read_volume, file, kind), file) for file in files])
    except MemoryError as error:
        raise UnreadableError(files[0], "larger than the memory; is its header damaged?", True) from error
    if kind != "image" and volume.channels > 1:
        raise UnreadableError(
            files[0],
            f"{volume.channels} values in each voxel; expected one, the index of its class: take the argmax of a label "
            "that has one channel for each class",
        )
    if volume.array.dtype.kind not in "biuf":
        raise UnreadableError(files[0], f"values of type {volume.array.dtype}; expected plain numbers")
    if volume.frames > 1 and not frames:
        raise UnreadableError(
            files[0], f"{volume.frames} frames of {volume.shape}: expected one 3D volume; save each frame as a file"
        )
    return volume


def _unreadable(error: UnreadableError, kind: str, case: str) -> Problem:
    problem = "unreadable file" if error.damaged else "unsuitable file"
    reason = error.reason.replace(repr(str(error.file)), "it").replace(str(error.file), "it")  # the same for all files
    return Problem(error.file, problem, f"a readable {kind}", reason, SKIP, case=case)


def examine(plan: Plan, entry: Entry, reader: Reader) -> tuple[Case | None, list[Problem]]:
    """Read and check one case. The case is None if its arrays cannot be used."""
    volumes, problems = {}, []
    for kind, there, read in (
        ("image", entry.image, lambda: read_image(entry, plan.listing, reader)),
        ("label", entry.label, lambda: read_label(entry, reader)),
        ("scribble", entry.scribble, lambda: _read(entry.scribble, "scribble", reader)),
    ):
        if there is None:
            continue
        try:
            volumes[kind] = read()
        except UnreadableError as error:
            problems.append(_unreadable(error, kind, entry.identifier))
    if problems:
        return None, problems
    image, label, scribble = (volumes.get(kind) for kind in ("image", "label", "scribble"))
    if grey := image.channels == 1 and len(plan.intensity) == 3 and not plan.listing.frames_are_channels:
        image = replace(image, array=np.repeat(image.array, 3, axis=1))
    names = plan.listing.channel_names
    rounded = False
    if label is not None:
        values, rounded = plan.classes.stored(label.array)
        label = replace(label, array=values)
    problems = check_case(
        entry.identifier,
        entry.image[0][0],
        image,
        entry.label[0] if entry.label else None,
        label,
        plan.classes.values,
        channels=image.channels if names else len(plan.intensity),
        scaled=plan.listing.scaled,
        empty_is_error=plan.empty_is_error,
    )
    if names and image.channels != len(names):
        problems.append(
            Problem(
                entry.image[0][0],
                "other channels than named",
                f"{len(names)}: {some(names)}",
                str(image.channels),
                "name each channel in dataset.json (R, G, B for the colours of a picture), or convert colours to grey "
                "values",
                case=entry.identifier,
            )
        )
    if grey:
        problems.append(
            Problem(
                entry.image[0][0],
                "a grey picture among pictures in colours",
                "pictures of one kind",
                "grey values alone; they are stored as three equal channels",
                "nothing, if they belong together; else convert the colours to grey values, or leave the others out",
                "warning",
                entry.identifier,
            )
        )
    if not plan.listing.scaled and Preprocessing(plan.intensity).is_scaled(image):
        problems.append(
            Problem(
                entry.image[0][0],
                "image is scaled already",
                f"values for the window {plan.intensity[0]['low']:g} to {plan.intensity[0]['high']:g}",
                f"{image.array.min():g}..{image.array.max():g}: the window would leave next to nothing of it",
                "take the image as the scanner made it, or another rule for all, from Python: "
                "prepare(..., intensity={'method': 'minmax'})",
                case=entry.identifier,
            )
        )
    if rounded:
        problems.append(
            Problem(
                entry.label[0],
                "label values are nearly whole",
                "whole numbers",
                "values such as 1.00000006, from a file's slope",
                "nothing: they are rounded",
                "note",
                entry.identifier,
            )
        )
    if any(problem.severity == "error" for problem in problems):
        return None, problems
    indices = None if label is None else np.ascontiguousarray(plan.classes.index(label.grey[0]))
    marks = None
    if scribble is not None:
        drawn = replace(plan.classes, values=plan.scribble_values)
        scribble = replace(scribble, array=drawn.stored(scribble.array)[0])
        args = (entry.identifier, entry.scribble[0], scribble, drawn.values, indices, image)
        problems += (found := check_scribble(*args))
        if any(problem.severity == "error" for problem in found):
            return None, problems
        marks = np.ascontiguousarray(drawn.index(scribble.grey[0]))
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
        label=indices,
        spacing_mm=image.told_mm,
        orientation=image.orientation,
        affine=image.affine,
        sources=tuple(files[0] for files in entry.image),
        frames_are_channels=plan.listing.frames_are_channels,
        stored_sha256=plan.listing.image_hashes.get(entry.identifier)
        or hashlib.sha256(np.ascontiguousarray(array)).hexdigest(),
        stored_quantiles=intensity_quantiles(array),
        scribble=marks,
        label_names=(label and label.class_names) or (),
    )
    return case, problems
