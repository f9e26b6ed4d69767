"""The prepared data set: a folder of memory-mapped arrays.

dataset.json         what it is, and every case's shape, spacing and origin; written last
splits.json          the split in use, by patient and by case
check.txt            the table of problems and notes of the pass that prepared it
plan.json            voxel size, patch and batch for 3D networks, where they were planned; see `planning`
resampled/           cases on the grid of a view, where one was trained with; see `resampled`
images/<case>.npy    (C, D, H, W) float32, about 0..1
labels/<case>.npy    (D, H, W) uint8 class indices, 255 where there is no ground truth; absent of an image without label
scribbles/<case>.npy the same, 255 where nothing is marked; only of cases that have scribbles
cases/<case>.json    what `prepare` needs to know which cases are done
"""

import hashlib
import json
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mamba_unet.data.case import Case
from mamba_unet.data.stored import load_array, read_dataset, read_splits
from mamba_unet.views.intensity import intensity_rules
from mamba_unet.views.labels import IGNORE
from mamba_unet.views.preprocessing import Preprocessing
from mamba_unet.views.slices import Slices
from mamba_unet.views.view import View

FORMAT = 2


class Cases(Protocol):
    """Cases by name."""

    def shape(self, identifier: str) -> tuple[int, int, int]:
        """(D, H, W), without touching the arrays."""

    def case(self, identifier: str) -> Case: ...


def _stat(file: Path) -> tuple[int, int, int] | None:
    """What changes where a file is written again; None where it is not there."""
    try:
        found = file.stat()
    except FileNotFoundError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size


def _contents(cases: dict[str, dict[str, Any]]) -> dict[str, list[Any]]:
    """Case -> what of its record a training depends on."""
    keys = ("image_sha256", "label_sha256", "scribble_sha256", "spacing_mm", "patient")
    return {identifier: [record.get(key) for key in keys] for identifier, record in cases.items()}


class PreparedDataset:
    """A folder that `prepare` has finished.

    Attributes:
        folder: where it lies.
        name: e.g. "acdc".
        description: what the data says of itself ("synthetic ..."), may be empty.
        class_names: [0] is the background.
        label_values: the stored value of each class in the source's labels.
        intensity: how each channel was brought to 0..1; see `normalise_intensity`.
        channel_names: one for each channel, or empty where nothing names them.
        orientation: the axis codes that all the cases share, e.g. "SPL"; None if they differ or are unknown.
        fingerprint: sha256 over identifiers, contents, intensity and class names; independent of where the files lie
            and of the layout they came in.
        splits: split -> case identifiers; those without a label are in `unlabelled`, and in no other.
        left_out: identifiers of the bad cases that were skipped on request.

    Raises:
        ValueError: the folder is not one that `prepare` has finished, damaged, or of another version's format.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        described, splits = self.folder / "dataset.json", self.folder / "splits.json"
        if not described.is_file() or not splits.is_file():
            if not self.folder.is_dir():
                raise ValueError(f"{self.folder}: no such folder; expected one that `mamba-unet prepare` wrote")
            state = "unfinished" if (self.folder / "cases").is_dir() else "not there"
            raise ValueError(
                f"{self.folder}: expected a prepared data set, but {described.name} is {state}; "
                "run `mamba-unet prepare SOURCE OUT` (again: what is done is not redone)"
            )
        self._described = _stat(described)
        said = read_dataset(described, FORMAT)
        self.name: str = said["name"]
        self.description: str = said["description"]
        self.class_names: list[str] = said["class_names"]
        self.label_values: list[int] = said["label_values"]
        self.intensity = intensity_rules(said["intensity"])
        self.channel_names: list[str] = said["channel_names"]
        self.orientation: str | None = said["orientation"]
        self.fingerprint: str = said["fingerprint"]
        self.left_out: list[str] = said["left_out"]
        self._cases: dict[str, dict[str, Any]] = said["cases"]
        self.splits: dict[str, list[str]] = read_splits(splits, self._cases)

    def __reduce__(self) -> tuple[type["PreparedDataset"], tuple[Path]]:
        """Another process is given the folder, not what was read of it."""
        return PreparedDataset, (self.folder,)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def channels(self) -> int:
        return len(self.intensity)

    def preprocessing(self, view: View | None = None) -> Preprocessing:
        """How these images are brought to a network that sees them by `view`."""
        return Preprocessing(self.intensity, self.orientation, view or Slices())

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

    def is_labelled(self, identifier: str) -> bool:
        """Whether the case has a label; one without serves to learn from unlabelled images."""
        return self._record(identifier)["label_sha256"] is not None

    def patient(self, identifier: str) -> str:
        """Whose case it is."""
        return self._record(identifier)["patient"]

    def annotated(self, identifiers: Iterable[str], annotation: str) -> list[str]:
        """Those cases that have a "label", or a "scribble"."""
        key = f"{annotation}_sha256"
        return [identifier for identifier in identifiers if self._record(identifier).get(key) is not None]

    def annotation(self, identifier: str, annotation: str) -> np.ndarray:
        """The "label" or "scribble" of a case that has one, memory-mapped."""
        return load_array(self.folder / f"{annotation}s" / f"{identifier}.npy", self.shape(identifier), np.uint8)

    def marked(self, identifiers: Iterable[str], annotation: str) -> tuple[float, str]:
        """The share of the voxels of some cases that their labels or scribbles mark, and a hash of these."""
        marked, total, contents = 0, 0, hashlib.sha256()
        for record in map(self._record, identifiers):
            voxels = record[f"{annotation}_voxels"]
            total += sum(voxels.values())
            marked += sum(count for index, count in voxels.items() if int(index) != IGNORE)
            contents.update(record[f"{annotation}_sha256"].encode())
        return marked / max(1, total), contents.hexdigest()

    def label_voxels(self, identifier: str) -> dict[int, int]:
        """Class index -> voxels of it; classes that are absent are left out."""
        return {int(index): voxels for index, voxels in self._record(identifier)["label_voxels"].items()}

    def stored_quantiles(self, identifier: str) -> list[list[float]]:
        """Of each channel's intensities as stored; empty in data that an earlier version prepared."""
        return self._record(identifier).get("stored_quantiles", [])

    @property
    def has_ignored(self) -> bool:
        """Whether some label has pixels without ground truth."""
        return any(str(IGNORE) in record["label_voxels"] for record in self._cases.values())

    @property
    def identity(self) -> dict[str, str | None]:
        """What tells these data from others: the fingerprint, and a hash of every case's voxel size, which the
        fingerprint leaves out; None where no file tells one."""
        sizes = {identifier: record["spacing_mm"] for identifier, record in self._cases.items()}
        known = hashlib.sha256(json.dumps(sizes, sort_keys=True).encode()).hexdigest() if any(sizes.values()) else None
        return {"fingerprint": self.fingerprint, "voxel_sizes": known}

    def spacing_mm(self, identifier: str) -> tuple[float, float, float] | None:
        """Voxel size of D, H, W; None where the files do not tell."""
        spacing_mm = self._record(identifier)["spacing_mm"]
        return spacing_mm and tuple(spacing_mm)

    def content_hash(self, identifier: str) -> str:
        """Of the arrays as they are here, image and label."""
        record = self._record(identifier)
        return hashlib.sha256(f"{record['image_sha256']}{record['label_sha256']}".encode()).hexdigest()

    def image_hash(self, identifier: str) -> str:
        """sha256 of the image as stored: the same under another name and with intensities scaled in another way."""
        return self._record(identifier)["stored_sha256"]

    def seen_by(self, lineage: Iterable[str], identifiers: Iterable[str]) -> list[str]:
        """Those cases whose images are in the lineage of a network, whatever they were called there."""
        known = set(lineage)
        return [identifier for identifier in identifiers if self.image_hash(identifier) in known]

    def arrays(self) -> dict[str, str]:
        """Path in the folder -> sha256 of the content, of every image, label and scribble."""
        return {
            f"{kind}s/{identifier}.npy": record[f"{kind}_sha256"]
            for identifier, record in self._cases.items()
            for kind in ("image", "label", "scribble")
            if record.get(f"{kind}_sha256")
        }

    def case(self, identifier: str) -> Case:
        """One case; image and label are memory-mapped, read-only, and the image is in 0..1.

        Raises:
            ValueError: no such case; or other data were prepared into the folder since it was opened.
        """
        self._require_unchanged()
        record = self._record(identifier)
        return Case(
            identifier=identifier,
            patient=record["patient"],
            image=load_array(
                self.folder / "images" / f"{identifier}.npy", (self.channels, *record["shape"]), np.float32
            ),
            label=self.annotation(identifier, "label") if self.is_labelled(identifier) else None,
            spacing_mm=self.spacing_mm(identifier),
            orientation=record["orientation"],
            affine=None if record["affine"] is None else np.array(record["affine"]),
            sources=tuple(map(Path, record["sources"])),
            frames_are_channels=record["frames_are_channels"],
        )

    def _require_unchanged(self) -> None:
        """The arrays of other data must not be taken for those that were opened."""
        described = self.folder / "dataset.json"
        now = _stat(described)
        if now in (None, self._described):  # None: being written, perhaps the same
            return
        try:
            said = read_dataset(described, FORMAT)
        except FileNotFoundError:
            return
        if _contents(said["cases"]) != _contents(self._cases) or intensity_rules(said["intensity"]) != self.intensity:
            raise ValueError(
                f"{self.folder} was prepared anew while it is in use; wait until `mamba-unet prepare` has ended, and "
                "start again"
            )
        self._described = now

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
