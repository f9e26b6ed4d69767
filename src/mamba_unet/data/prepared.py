"""The prepared data set: a folder of memory-mapped arrays, and its slices as a training set.

dataset.json         what it is, and every case's shape, spacing and origin; written last
splits.json          the split in use, by patient and by case
check.txt            the table of problems and notes of the pass that prepared it
images/<case>.npy    (D, H, W) float32 in 0..1
labels/<case>.npy    (D, H, W) uint8 class indices
cases/<case>.json    what `prepare` needs to know which cases are done
"""

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mamba_unet.data.case import Case
from mamba_unet.views.slices import resample_slice, sample_augmentation

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 1


class PreparedDataset:
    """A folder that `prepare` has finished.

    Attributes:
        folder: where it lies.
        name: e.g. "acdc".
        description: what the data says of itself ("synthetic ..."), may be empty.
        class_names: [0] is the background.
        label_values: the stored value of each class in the source's labels.
        intensity: how the images were brought to 0..1; see `normalise_intensity`.
        orientation: the axis codes that all the cases share, e.g. "SPL"; None if they differ or are unknown.
        fingerprint: sha256 over identifiers, contents, intensity and class names; independent of where the files lie
            and of the layout they came in.
        splits: split -> case identifiers.
        left_out: identifiers of the bad cases that were skipped on request.

    Raises:
        ValueError: the folder is not one that `prepare` has finished, or of another version's format.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        described, splits = self.folder / "dataset.json", self.folder / "splits.json"
        if not described.is_file() or not splits.is_file():
            state = "unfinished" if (self.folder / "cases").is_dir() else "not there"
            raise ValueError(
                f"{self.folder}: expected a prepared data set, but {described.name} is {state}; "
                "run `mamba-unet prepare SOURCE OUT` (again: what is done is not redone)"
            )
        said = json.loads(described.read_text(encoding="utf-8"))
        if said.get("format") != FORMAT:
            raise ValueError(
                f"{described}: format {said.get('format')}, this version reads {FORMAT}; run `mamba-unet prepare` again"
            )
        self.name: str = said["name"]
        self.description: str = said["description"]
        self.class_names: list[str] = said["class_names"]
        self.label_values: list[int] = said["label_values"]
        self.intensity: dict[str, Any] = said["intensity"]
        self.orientation: str | None = said["orientation"]
        self.fingerprint: str = said["fingerprint"]
        self.left_out: list[str] = said["left_out"]
        self._cases: dict[str, dict[str, Any]] = said["cases"]
        self.splits: dict[str, list[str]] = json.loads(splits.read_text(encoding="utf-8"))["cases"]

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def identifiers(self) -> list[str]:
        return list(self._cases)

    @cached_property
    def patients(self) -> dict[str, list[str]]:
        """Patient -> identifiers of its cases."""
        patients: dict[str, list[str]] = {}
        for identifier, record in self._cases.items():
            patients.setdefault(record["patient"], []).append(identifier)
        return patients

    def shape(self, identifier: str) -> tuple[int, int, int]:
        """(D, H, W), without touching the arrays."""
        return tuple(self._record(identifier)["shape"])

    def image_hash(self, identifier: str) -> str:
        """sha256 of the case's image, by which it is known under another name too."""
        return self._record(identifier)["image_sha256"]

    def case(self, identifier: str) -> Case:
        """One case; image and label are memory-mapped, read-only, and the image is in 0..1."""
        record = self._record(identifier)
        return Case(
            identifier=identifier,
            patient=record["patient"],
            image=np.load(self.folder / "images" / f"{identifier}.npy", mmap_mode="r"),
            label=np.load(self.folder / "labels" / f"{identifier}.npy", mmap_mode="r"),
            spacing_mm=record["spacing_mm"] and tuple(record["spacing_mm"]),
            orientation=record["orientation"],
            affine=None if record["affine"] is None else np.array(record["affine"]),
            source=Path(record["source"]),
        )

    def split(self, name: str) -> list[str]:
        """Identifiers of a split. Raises ValueError that names the splits there are."""
        if name not in self.splits:
            raise ValueError(f"{self.folder} has no split {name!r}; expected one of {', '.join(self.splits)}")
        return self.splits[name]

    def _record(self, identifier: str) -> dict[str, Any]:
        if identifier not in self._cases:
            raise ValueError(
                f"{self.folder} has no case {identifier!r}; it has {', '.join(list(self._cases)[:5])}, ..."
            )
        return self._cases[identifier]


class SliceDataset:
    """The slices of some cases, resized and, if asked, augmented: a map-style data set for torch's DataLoader.

    It has no state: an item is asked for as (index, seed), and the seed alone decides the augmentation, so whoever
    draws the seeds can stop and go on anywhere in the same stream.

    Args:
        prepared: the data set.
        identifiers: its cases, in order; the slices of each follow one another.
        image_size: (h, w) of every item.
        augment: whether `sample_augmentation` is applied.
    """

    def __init__(
        self, prepared: PreparedDataset, identifiers: Sequence[str], image_size: tuple[int, int], augment: bool
    ):
        self.prepared, self.identifiers = prepared, list(identifiers)
        self.image_size, self.augment = tuple(image_size), augment
        self._ends = np.cumsum([prepared.shape(identifier)[0] for identifier in self.identifiers], dtype=np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1]) if self.identifiers else 0

    def __getitem__(self, item: tuple[int, int | Sequence[int]]) -> "dict[str, Tensor | str]":
        """(index, seed), the seed as numpy takes it -> image (1, h, w) float32, label (h, w) int64, name "case/3"."""
        import torch

        index, seed = item
        if not 0 <= index < len(self):
            raise IndexError(f"slice {index} of {len(self)}")
        position = int(np.searchsorted(self._ends, index, side="right"))
        number = index - (int(self._ends[position - 1]) if position else 0)
        case = self.prepared.case(self.identifiers[position])
        augmentation = sample_augmentation(np.random.default_rng(seed)) if self.augment else None
        image, label = resample_slice(case.image[number], case.label[number], self.image_size, augmentation)
        return {
            "image": torch.from_numpy(image)[None],
            "label": torch.from_numpy(label).long(),
            "name": f"{case.identifier}/{number}",
        }
