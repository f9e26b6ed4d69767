"""dataset.json, as nnU-Net (both versions) and the Medical Segmentation Decathlon write it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mamba_unet.data.classes import LARGEST
from mamba_unet.views.intensity import COLOUR, MINMAX, window

CT = window(-125, 275)


@dataclass(frozen=True)
class Description:
    """What a dataset.json says; nothing, where there is none.

    Attributes:
        labels: class name -> stored value, background first, by value.
        ignore: the stored value of voxels without ground truth.
        channel_names: in order; empty where it does not say.
        name, description: of the data set.
        training: names of the images it lists for training, relative to its folder.
        cases: how many it says there are for training (numTraining).
        elsewhere: it says of each case where its image and label lie ("dataset").
    """

    labels: Mapping[str, int] | None = None
    ignore: int | None = None
    channel_names: Sequence[str] = ()
    name: str | None = None
    description: str = ""
    training: Sequence[str] = ()
    cases: int | None = None
    elsewhere: bool = False

    @property
    def intensity(self) -> dict[str, Any] | list[dict[str, Any]] | None:
        """The rule that the channels' names ask for: one, or one per channel; None where they ask for none."""
        rules = [channel_intensity(name) for name in self.channel_names]
        if all(rule == MINMAX for rule in rules):
            return None
        return rules[0] if all(rule == rules[0] for rule in rules) else rules


def channel_intensity(name: str) -> dict[str, Any]:
    """CT in HU and colours in 0..255 have a scale of their own; anything else is scaled by minimum and maximum."""
    match name.strip().lower():
        case "ct":
            return CT
        case "rgb_to_0_1" | "rgb" | "r" | "g" | "b" | "red" | "green" | "blue":
            return COLOUR
        case _:
            return MINMAX


def read_description(file: Path) -> Description:
    """Raises ValueError, which names the file, if it is not JSON or does not describe classes that can be used."""
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not JSON ({error}); correct it") from error
    if not isinstance(said, dict):
        raise ValueError(f'{file}: expected {{"labels": ..., ...}}, found {type(said).__name__}')
    labels, ignore = _labels(file, said)
    listed, cases, elsewhere = (said.get(key) for key in ("training", "numTraining", "dataset"))
    return Description(
        labels,
        ignore,
        _channel_names(file, said.get("channel_names", said.get("modality"))),
        name=str(said["name"]) if said.get("name") else None,
        description=str(said.get("description") or ""),
        training=[
            str(pair["image"])
            for pair in (listed if isinstance(listed, list) else ())
            if isinstance(pair, dict) and "image" in pair
        ],
        cases=cases if isinstance(cases, int) and not isinstance(cases, bool) else None,
        elsewhere=isinstance(elsewhere, dict) and bool(elsewhere),
    )


def _channel_names(file: Path, said: Any) -> list[str]:
    if said is None:
        return []
    if isinstance(said, list):
        said = {str(number): name for number, name in enumerate(said)}
    if not isinstance(said, dict) or not said or sorted(said, key=str) != sorted(map(str, range(len(said)))):
        raise ValueError(
            f'{file}: channels {str(said)[:200]}; expected "channel_names": {{"0": "T1", "1": "T2", ...}}, numbered '
            "from 0 without a gap"
        )
    names = [said[str(number)] for number in range(len(said))]
    if odd := [name for name in names if not isinstance(name, str)]:
        raise ValueError(f"{file}: channel name {str(odd[0])[:100]}; expected a text for each channel")
    return names


def _labels(file: Path, described: Mapping[str, Any]) -> tuple[dict[str, int], int | None]:
    said = described.get("labels")
    if not isinstance(said, dict) or not said:
        raise ValueError(f'{file}: expected "labels": {{"background": 0, "name": 1, ...}}, found {str(said)[:200]}')
    labels: dict[str, int] = {}
    ignore = None
    for key, value in said.items():
        # the first version has {"1": "name"}, the second {"name": 1}
        name, number = (value, key) if isinstance(value, str) and key.isdecimal() else (key, value)
        if isinstance(number, list):
            raise ValueError(
                f"{file}: label {name!r} is the region {number}: regions overlap, and a network here gives each voxel "
                "one class; give each value a class of its own, as "
                f'{{"background": 0, "part {number[0] if number else 1}": {number[0] if number else 1}, ...}}, '
                'and take "regions_class_order" out'
            )
        if isinstance(number, bool) or not str(number).isdecimal() or int(number) > LARGEST:
            raise ValueError(f"{file}: label {name!r} = {str(number)[:100]}; expected a whole number of 0..{LARGEST}")
        if name in labels:
            raise ValueError(f"{file}: two labels are called {name!r}; expected a name of its own for each value")
        if name == "ignore":
            ignore = int(number)
        else:
            labels[name] = int(number)
        if name.lower() == "background" and int(number):
            raise ValueError(
                f"{file}: label {name!r} = {number}; expected 0, which is the background here and in nnU-Net; store "
                "the background as 0, or give this class another name"
            )
    if len({*labels.values(), ignore}) <= len(labels) or 0 not in labels.values():
        raise ValueError(f"{file}: labels {str(said)[:200]}; expected distinct values, 0 among them for the background")
    return dict(sorted(labels.items(), key=lambda item: item[1])), ignore
