"""nnU-Net's raw layout, of its first and its second version."""

import json
from pathlib import Path
from typing import Any

from mamba_unet.data.checks import Problem
from mamba_unet.data.readers.base import Files, Layout, Listing, files, pair, patient_of
from mamba_unet.views.intensity import window
from mamba_unet.volumes.formats import NIFTI, PICTURES, ending

ENDINGS = (*NIFTI, *PICTURES)


def find(source: Path) -> Listing | None:
    """`imagesTr/CASE_0000.nii.gz`, `labelsTr/CASE.nii.gz` and `dataset.json`; labelled `imagesTs` are the test split.

    Raises:
        ValueError: more than one channel, region-based or ignore labels, or an unreadable dataset.json.
    """
    if not (source / "imagesTr").is_dir() or not (source / "labelsTr").is_dir():
        return None
    described = source / "dataset.json"
    if not described.is_file():
        raise ValueError(f"{source} has imagesTr and labelsTr but no dataset.json, which names the classes; add it")
    dataset = _read_json(described)
    channels = dataset.get("channel_names", dataset.get("modality", {"0": "unknown"}))
    if len(channels) != 1:
        raise ValueError(
            f"{described}: {len(channels)} channels ({', '.join(map(str, channels.values()))}); expected one: "
            "keep one channel's files (CASE_0000) and name only it"
        )
    images, labels = _channel(source / "imagesTr"), _labels(source / "labelsTr")
    notes, leaks, splits = [], [], None
    if (source / "labelsTs").is_dir():
        held_out = _labels(source / "labelsTs")
        test = {patient_of(identifier) for identifier, _ in held_out}
        leaks = sorted(test.intersection(patient_of(identifier) for identifier, _ in labels))
        images, labels = images + _channel(source / "imagesTs"), labels + held_out
        splits = {"test": sorted(test)}
    elif (source / "imagesTs").is_dir():
        notes.append("imagesTs is left alone: it has no labels (labelsTs)")
    entries, problems = pair(images, labels)
    is_ct = str(next(iter(channels.values()))).upper() == "CT"
    if is_ct:
        notes.append("CT is windowed to -125..275 HU, for abdominal organs; choose another intensity for others")
    problems += [
        Problem(
            source / "labelsTs",
            "one patient in two splits",
            "each patient in labelsTr or labelsTs",
            f"{patient} in both",
            "move all of the patient's cases to one of them",
        )
        for patient in leaks
    ]
    return Listing(
        f"imagesTr, labelsTr and dataset.json; {len(entries)} cases",
        entries,
        problems,
        notes,
        name=dataset.get("name"),
        description=dataset.get("description", ""),
        labels=read_labels(described),
        splits=splits,
        intensity=window(-125, 275) if is_ct else None,
    )


def read_labels(described: Path) -> dict[str, int]:
    """Class name -> stored value, background first, from the "labels" of a dataset.json of either version."""
    said = _read_json(described).get("labels")
    if not isinstance(said, dict) or not said:
        raise ValueError(f'{described}: expected "labels": {{"background": 0, "name": 1, ...}}, found {said!r}')
    labels = {}
    for key, value in said.items():
        name, number = (value, key) if isinstance(value, str) and str(key).isdigit() else (key, value)
        if name == "ignore" or not str(number).isdigit():
            raise ValueError(
                f"{described}: label {name!r} = {number!r}; expected one whole number per class "
                "(region-based and ignore labels are not supported): give every class a value of its own"
            )
        labels[name] = int(number)
    if len(set(labels.values())) != len(labels) or 0 not in labels.values():
        raise ValueError(f"{described}: labels {labels}; expected distinct values, 0 among them for the background")
    return dict(sorted(labels.items(), key=lambda item: item[1]))


def _read_json(file: Path) -> dict[str, Any]:
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is not JSON ({error}); correct it") from error
    if not isinstance(said, dict):
        raise ValueError(f'{file}: expected {{"labels": ..., ...}}, found {type(said).__name__}')
    return said


def _channel(folder: Path) -> list[tuple[str, Files]]:
    found = []
    for file in files(folder):
        if end := ending(file, ENDINGS):
            name = file.name[: -len(end)]
            if not name.endswith("_0000"):
                raise ValueError(
                    f"{file}: expected CASE_0000{end}, one channel; keep one channel's files and number it 0000"
                )
            found.append((name.removesuffix("_0000"), (file,)))
    return found


def _labels(folder: Path) -> list[tuple[str, Files]]:
    return [(file.name[: -len(end)], (file,)) for file in files(folder) if (end := ending(file, ENDINGS))]


NNUNET = Layout(
    "nnunet",
    "nnU-Net raw: imagesTr/CASE_0000.nii.gz, labelsTr/CASE.nii.gz and dataset.json, one channel "
    f"({', '.join(ENDINGS)})",
    find,
)
