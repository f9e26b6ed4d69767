"""What people corrected, as a data set that `prepare` reads: one folder per network, in nnU-Net's raw layout.

NETWORK/dataset.json               classes and channels
NETWORK/imagesTr/CASE_0000.nii.gz  the image, as it was read
NETWORK/labelsTr/CASE.nii.gz       the newest label that a person saved of it
NETWORK/edits/CASE/1/              person.nii.gz, network.nii.gz, edit.json (who, when, of what): the first that was
                                   saved; 2/ the second, ...

A case is one frame of an image. Cases of one name are of one patient, as `prepare` understands names; DICOM series go
by a pseudonym made of the patient's ID. T frames, C channels, D H W array axes as stored.
"""

import hashlib
import os
import re
import secrets
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mamba_unet.files import read_json, read_record, write_json
from mamba_unet.views.intensity import COLOUR

if TYPE_CHECKING:
    from mamba_unet.inference import Predictor
    from mamba_unet.volumes.volume import Volume

STORED = ("uint8", "int16", "uint16", "int32", "float32", "float64")  # types that NIfTI readers know


class Collection:
    """A folder that edits are added to, by several servers too.

    Args:
        folder: made if needed.
        predictors: by the name that people choose from.

    Raises:
        ValueError: two networks whose folders would have one name.
    """

    def __init__(self, folder: str | Path, predictors: "Mapping[str, Predictor]") -> None:
        self.folder, self.predictors = Path(folder), predictors
        self._folders = {
            name: self.folder / (re.sub(r"[^\w.-]+", "_", name).strip("._") or "network") for name in predictors
        }
        if len(set(self._folders.values())) < len(self._folders):
            raise ValueError(f"--collect: networks {', '.join(predictors)} would share a folder; name them apart")
        self.folder.mkdir(parents=True, exist_ok=True)
        self._turn = threading.Lock()

    def add(
        self, model: str, volume: "Volume", network: np.ndarray, person: np.ndarray, by: str, saved: str
    ) -> list[str]:
        """Add an edit: the frames that the person changed; all of them if none was changed.

        Args:
            model: name of the network.
            volume: the image, its channels as the network takes them.
            network, person: (T, D, H, W) uint8, the labels before and after.
            by: who made it, empty where nobody says.
            saved: when, ISO 8601.

        Returns:
            The cases.

        Raises:
            OSError: it cannot be written.
            ValueError: the folder holds a data set of other classes or channels.
        """
        folder = self._folders[model]
        with self._turn, _alone(self.folder):
            self._describe(model, folder)
            changed = [frame for frame in range(len(person)) if not np.array_equal(network[frame], person[frame])]
            cases = []
            for frame in changed or range(len(person)):
                one = replace(volume, array=volume.array[frame : frame + 1], stored_shape=None)
                about = {
                    "image": _name(volume),
                    "frame": frame if volume.frames > 1 else None,
                    "network": model,
                    "by": by or None,
                    "saved": saved,
                    "changed_voxels": int((network[frame] != person[frame]).sum()),
                }
                cases.append(self._add(folder, one, frame, network[frame], person[frame], about, volume.frames > 1))
        return cases

    def _describe(self, model: str, folder: Path) -> None:
        """Write dataset.json, or find the same one there."""
        metadata, rules = self.predictors[model].metadata, self.predictors[model].preprocessing.intensity
        said = {
            "name": folder.name,
            "description": f"edited segmentations of {model}",
            "channel_names": {str(index): _channel(rule, index) for index, rule in enumerate(rules)},
            "labels": {name: index for index, name in enumerate(metadata.class_names)},
            "file_ending": ".nii.gz",
        }
        path = folder / "dataset.json"
        if not path.exists():
            return write_json(path, said)
        before = read_json(path, "mend it, or collect into another folder")
        for what in ("labels", "channel_names"):
            if before.get(what) != said[what]:
                raise ValueError(f"{path} has other {what} than the network; collect into another folder")

    def _add(
        self,
        folder: Path,
        volume: "Volume",
        frame: int,
        network: np.ndarray,
        person: np.ndarray,
        about: Mapping[str, Any],
        is_cine: bool,
    ) -> str:
        from mamba_unet.volumes.write import save_nifti

        digest = hashlib.sha256(np.ascontiguousarray(volume.array))
        digest.update(np.ascontiguousarray(volume.affine if volume.affine is not None else np.eye(4)))
        image = digest.hexdigest()
        case = _case(folder, about["image"], f"_frame{frame + 1:02d}" if is_cine else "", image)
        place = folder / "edits" / case
        if not (place / "image.json").exists():
            array = volume.array if volume.array.dtype.name in STORED else volume.array.astype(np.float32)
            for channel in range(volume.channels):
                file = folder / "imagesTr" / f"{case}_{channel:04d}.nii.gz"
                save_nifti(file, volume, array[:, channel], dtype=array.dtype.type)
            write_json(place / "image.json", {"sha256": image})
        class_names = self.predictors[about["network"]].metadata.class_names
        made = place / f".{secrets.token_hex(4)}"
        made.mkdir()
        try:
            for name, label in (("network", network), ("person", person)):
                save_nifti(made / f"{name}.nii.gz", volume, label[None], class_names=class_names)
            write_json(made / "edit.json", {"case": case, **about})
            number = _next(place)
            while True:  # another server may have taken the number
                try:
                    os.rename(made, place / str(number))
                    break
                except OSError:
                    if not (place / str(number)).exists():
                        raise
                    number += 1
        finally:
            shutil.rmtree(made, ignore_errors=True)
        save_nifti(folder / "labelsTr" / f"{case}.nii.gz", volume, person[None], class_names=class_names)
        return case


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """No other server adds to the folder meanwhile, where the system has locks. They go with the process."""
    with (folder / ".lock").open("a") as file:
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        except (ImportError, OSError):  # Windows, or a file system without locks
            pass
        yield


def _case(folder: Path, name: str, end: str, image: str) -> str:
    """The name of an image's case: NAME, or NAME_img2, ... where NAME is another image's, or not from here."""
    number = 1
    while True:
        case = f"{name}_img{number}{end}" if number > 1 else f"{name}{end}"
        known = folder / "edits" / case / "image.json"
        if known.exists():
            if read_record(known).get("sha256") == image:
                return case
        elif (
            not any((folder / "imagesTr").glob(f"{case}_????.nii.gz"))
            and not (folder / "labelsTr" / f"{case}.nii.gz").exists()
        ):
            return case
        number += 1


def _next(folder: Path) -> int:
    return 1 + max((int(one.name) for one in folder.iterdir() if one.name.isdecimal()), default=0)


def _name(volume: "Volume") -> str:
    """What its cases go by. The name of a DICOM folder is often the patient's, so a pseudonym stands for it."""
    return volume.name if volume.dicom is None else _pseudonym(volume.dicom[0])


def _pseudonym(header: Any) -> str:
    who = str(header.get("PatientID") or header.get("StudyInstanceUID") or "")
    return f"P{hashlib.sha256(who.encode('utf-8', 'surrogateescape')).hexdigest()[:10]}"


def _channel(rule: Mapping[str, Any], index: int) -> str:
    """The name by which `prepare` gives a channel the rule that it has."""
    if rule == COLOUR:
        return ("red", "green", "blue")[index % 3]
    return "CT" if rule["method"] == "window" else "image"
