"""nnU-Net's raw layout, of its first and its second version, and the Medical Segmentation Decathlon's."""

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path

from mamba_unet.data.problems import Problem
from mamba_unet.data.readers.base import (
    ENDINGS,
    SCRIBBLES,
    UNLABELLED,
    Files,
    Layout,
    Listing,
    files,
    join_channels,
    named,
    not_looked_into,
    pair,
    single,
    with_scribbles,
)
from mamba_unet.data.readers.description import CT, Description, channel_intensity, read_description
from mamba_unet.files import read_json
from mamba_unet.views.intensity import COLOUR
from mamba_unet.volumes.formats import PICTURES, ending
from mamba_unet.words import counted

CHANNEL = re.compile(r"(.+)_(\d{4})")

ORIGINS = "origins.json"  # of our own exports
CT_NOTE = "CT is windowed"


def find(source: Path) -> Listing | None:
    """`imagesTr/CASE_0000.nii.gz`, `labelsTr/CASE.nii.gz` and `dataset.json`; labelled `imagesTs` are the test split.

    Raises:
        ValueError: a `dataset.json` that is absent, unreadable, describes regions or says that files lie elsewhere;
            images without a channel number.
    """
    return _find(source, decathlon=False)


def find_decathlon(source: Path) -> Listing | None:
    """As nnU-Net's, but the images are named as their labels, and the channels are the fourth axis of an image.

    Raises:
        ValueError: see `find`.
    """
    return _find(source, decathlon=True)


def _find(source: Path, decathlon: bool) -> Listing | None:
    if not (source / "imagesTr").is_dir() or not (source / "labelsTr").is_dir():
        return None
    described = source / "dataset.json"
    if not described.is_file():
        raise ValueError(f"{source} has imagesTr and labelsTr but no dataset.json, which names the classes; add it")
    description = read_description(described)
    # nnU-Net's first version lists images too, but not by the names that they have on disk
    if decathlon != any((source / name).is_file() for name in description.training):
        return None
    if description.elsewhere:
        raise ValueError(
            f'{described}: "dataset" says where each image and label lies, which is not read; expected imagesTr/ and '
            'labelsTr/: link the files there and take "dataset" out'
        )
    read = _whole if decathlon else _channels
    images, problems = read(source / "imagesTr", description)
    labels = single(source / "labelsTr")
    labelled = {identifier for identifier, _ in labels}
    training = labelled.union((identifier for identifier, _ in images), (problem.case for problem in problems))
    notes, splits = [], None
    if (source / "labelsTs").is_dir():
        held_out = single(source / "labelsTs")
        splits = {"train": [identifier for identifier, _ in labels], "test": [identifier for identifier, _ in held_out]}
        more, wrong = read(source / "imagesTs", description)
        images, labels, problems = images + more, labels + held_out, problems + wrong
    elif (source / "imagesTs").is_dir():
        notes.append("imagesTs is left alone: it has no labels (labelsTs)")
    alone, missing = _unlabelled(source, images, labels, read, description)
    incomplete = {problem.case for problem in problems} - {identifier for identifier, _ in images}
    without = {identifier for identifier, _ in alone}
    origins = _origins(source)
    entries, unpaired = pair(
        [(identifier, files) for identifier, files in images if identifier not in without],
        [(identifier, file) for identifier, file in labels if identifier not in incomplete],
        {identifier: origin["patient"] for identifier, origin in origins.items()},
        unlabelled=alone,
    )
    unpaired = [*missing, *unpaired]
    entries, undrawn = with_scribbles(entries, source / f"{SCRIBBLES}Tr", [*problems, *unpaired])
    unpaired += undrawn
    if entries and description.cases is not None:
        unpaired += _miscounted(described, description.cases, labelled, training | without)
    if any(file.suffix.lower() == ".json" for file in files(source / "imagesTr")):
        notes.append(
            "voxel sizes in .json files beside the images are not read: distances are in voxels; NIfTI has them"
        )
    rules = [channel_intensity(name) for name in description.channel_names]
    if CT in rules:
        notes.append(f"{CT_NOTE} to -125..275 HU, for abdominal organs; choose another intensity for others")
    return Listing(
        f"imagesTr, labelsTr and dataset.json; {counted(len(entries), 'case')}",
        entries,
        [*problems, *unpaired],
        notes,
        name=description.name,
        description=description.description,
        labels=description.labels,
        ignore=description.ignore,
        channel_names=description.channel_names,
        frames_are_channels=decathlon and len(description.channel_names) > 1,
        intensity=description.intensity,
        splits=splits,
        image_hashes={identifier: origin["image"] for identifier, origin in origins.items()},
    )


def _origins(source: Path) -> dict[str, dict[str, str]]:
    """Case -> its patient and the hash of its image where it was first prepared; empty where the folder says nothing.

    Raises:
        ValueError: the file is damaged.
    """
    path = source / ORIGINS
    if not path.is_file():
        return {}
    said = read_json(path, "remove it, and patients are told by the names of the cases")
    if not all(
        isinstance(origin, dict) and all(isinstance(origin.get(key), str) for key in ("patient", "image"))
        for origin in said.values()
    ):
        raise ValueError(f"{path}: expected patient and image of each case; export the data again, or remove it")
    return said


def _unlabelled(
    source: Path,
    images: Sequence[tuple[str, tuple[Files, ...]]],
    labels: Sequence[tuple[str, Files]],
    read: Callable[[Path, Description], tuple[list[tuple[str, tuple[Files, ...]]], list[Problem]]],
    description: Description,
) -> tuple[list[tuple[str, tuple[Files, ...]]], list[Problem]]:
    """Images without label: those of `unlabelled/`, and those of imagesTr that have none, which a warning tells."""
    known = {identifier for identifier, _ in labels}
    alone = [(name, files) for name, files in images if name not in known and files[0][0].parent.name == "imagesTr"]
    problems = [
        Problem(
            files[0][0],
            "image without label",
            "a label of each image in imagesTr, unless it is meant to serve without",
            f"no label of {name}",
            f"nothing, if it is meant so (docs/few_labels.md; a folder {UNLABELLED} says it without a warning)",
            "warning",
            name,
        )
        for name, files in alone
    ]
    if (source / UNLABELLED).is_dir():
        more, wrong = read(source / UNLABELLED, description)
        return [*alone, *more], [*problems, *wrong, *not_looked_into(source / UNLABELLED)]
    return alone, problems


def _miscounted(file: Path, said: int, labelled: Collection[str], training: Collection[str]) -> list[Problem]:
    """A warning where cases seem to be missing; those without label may be counted or not."""
    if len(labelled) <= said <= len(training):
        return []
    besides = len(training) - len(labelled)
    return [
        Problem(
            file,
            "another number of training cases",
            f"{said}, as numTraining says",
            f"{len(labelled)}" + (f" with a label and {besides} without" if besides else ""),
            "copy the rest, or correct the number",
            "warning",
        )
    ]


def _channels(folder: Path, description: Description) -> tuple[list[tuple[str, tuple[Files, ...]]], list[Problem]]:
    found = []
    for name, file in named(files(folder)):
        if not (match := CHANNEL.fullmatch(name)):
            end = ending(file, ENDINGS)
            raise ValueError(f"{file}: expected CASE_0000{end}, with the number of its channel; rename it")
        found.append((match[1], match[2], file))
    expected = [f"{number:04d}" for number in range(len(description.channel_names) or 1)]
    one_file = len(expected) == 3 and all(channel == "0000" and ending(file, PICTURES) for _, channel, file in found)
    if one_file and all(channel_intensity(name) == COLOUR for name in description.channel_names):
        return join_channels(found, ["0000"], _renumbered)  # red, green and blue of a picture, as nnU-Net keeps them
    cases, problems = join_channels(found, expected, _renumbered)
    if one_file:
        colours = "if each file is a picture in colours, name its channels R, G, B in dataset.json"
        problems = [replace(problem, remedy=f"{problem.remedy}; {colours}") for problem in problems]
    return cases, problems


def _renumbered(file: Path, channel: str) -> Path:
    end = ending(file, ENDINGS) or ""
    return file.with_name(file.name[: -len(end) - 4] + channel + file.name[-len(end) :])


def _whole(folder: Path, description: Description) -> tuple[list[tuple[str, tuple[Files, ...]]], list[Problem]]:
    return [(name, (each,)) for name, each in single(folder)], []


NNUNET = Layout(
    "nnunet",
    "nnU-Net raw: imagesTr/CASE_0000.nii.gz (_0001, ... for further channels), labelsTr/CASE.nii.gz and dataset.json "
    f"({', '.join(ENDINGS)})",
    find,
)
DECATHLON = Layout(
    "decathlon",
    "Medical Segmentation Decathlon: imagesTr/CASE.nii.gz (channels along the fourth axis), labelsTr/CASE.nii.gz and "
    'dataset.json that lists them ("training")',
    find_decathlon,
)
