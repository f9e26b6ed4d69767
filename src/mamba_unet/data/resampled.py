"""The cases of a prepared data set on the grid of a view: resampled once, kept beside the data, memory-mapped.

resampled/<voxel size>/<case>_<hash of its arrays>_image.npy    (C, d, h, w) float32
resampled/<voxel size>/<case>_<hash of its arrays>_label.npy    (d, h, w) uint8
"""

import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from mamba_unet.data.annotated import Annotated
from mamba_unet.data.case import Case
from mamba_unet.data.prepared import PreparedDataset
from mamba_unet.data.stored import save_array
from mamba_unet.files import STALE_S, one_at_a_time, remove_temporaries
from mamba_unet.views.regrid import Regrid
from mamba_unet.views.view import View

FOLDER = "resampled"
VERSION = 2  # of how images are resampled


class CasesOnGrid:
    """Cases as a view cuts them; those that lie on its grid already are the prepared ones.

    Args:
        prepared: the data set.
        view: of a network.
    """

    def __init__(self, prepared: PreparedDataset | Annotated, view: View) -> None:
        self.prepared, self.view = prepared, view
        size = "x".join(f"{mm:g}" for mm in view.spacing_mm or ())
        self.folder = prepared.folder / FOLDER / f"{size}mm_v{VERSION}"

    def shape(self, identifier: str) -> tuple[int, int, int]:
        return self._regrid(identifier).target

    def case(self, identifier: str) -> Case:
        """One case, its arrays memory-mapped; `write` must have been called for it."""
        case, regrid = self.prepared.case(identifier), self._regrid(identifier)
        if not regrid.changes:
            return case
        image, label = (np.load(path, mmap_mode="r") for path in self._paths(identifier))
        sides = zip(case.spacing_mm, regrid.source, regrid.target, strict=True)
        return replace(case, image=image, label=label, spacing_mm=tuple(mm * m / n for mm, m, n in sides))

    def write(self, identifiers: Iterable[str]) -> None:
        """Resample the cases that are not there yet. Of several processes one does it, the others wait.

        Raises:
            OSError: the folder of the data cannot be written, or the disk is full.
        """
        remove_temporaries(self.folder, STALE_S)
        todo = [name for name in identifiers if self._regrid(name).changes and not self._are_there(name)]
        if todo:
            with one_at_a_time(self.folder.with_name(f"{self.folder.name}.lock")):
                self._write([name for name in todo if not self._are_there(name)])

    def _write(self, todo: list[str]) -> None:
        for identifier in tqdm(todo, "resample", unit="case", disable=None if todo else True):
            case, regrid = self.prepared.case(identifier), self._regrid(identifier)
            image, label = self._paths(identifier)
            save_array(image, regrid.image(case.image))
            save_array(label, regrid.label(case.label))

    def _regrid(self, identifier: str) -> Regrid:
        return self.view.grid(self.prepared.shape(identifier), self.prepared.spacing_mm(identifier))

    def _paths(self, identifier: str) -> tuple[Path, Path]:
        name = f"{identifier}_{self.prepared.content_hash(identifier)[:12]}"
        return self.folder / f"{name}_image.npy", self.folder / f"{name}_label.npy"

    def _are_there(self, identifier: str) -> bool:
        return all(path.is_file() for path in self._paths(identifier))


def remove_resampled(folder: Path) -> None:
    """Remove all that was resampled of the data set in a folder."""
    shutil.rmtree(folder / FOLDER, ignore_errors=True)
