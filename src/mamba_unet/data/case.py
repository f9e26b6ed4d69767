"""One case: an image, its label and where they lie in space."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True, eq=False)
class Case:
    """One image volume (or one 2D image, then D = 1) and its label.

    Axes are (D, H, W): slices, rows, columns. A NIfTI array (X, Y, Z) is transposed to (Z, Y, X) in stored order,
    never reoriented.

    Attributes:
        identifier: unique in its data set, `patient001_frame01`.
        patient: groups the cases that must stay in one split, `patient001`.
        image: (D, H, W) float32.
        label: (D, H, W) uint8 class indices, or None.
        spacing_mm: voxel size per array axis; None where the file does not tell.
        orientation: nibabel's axis codes of the array axes in array order, e.g. "SPL"; None where unknown.
        affine: (4, 4), of the *stored* NIfTI array (X, Y, Z); None where unknown.
        source: the image's file.
    """

    identifier: str
    patient: str
    image: np.ndarray
    label: np.ndarray | None
    spacing_mm: tuple[float, float, float] | None
    orientation: str | None
    affine: np.ndarray | None
    source: Path
