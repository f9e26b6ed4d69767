"""A scan: an array as stored, and where it lies in the patient.

T frames (1 unless a cine), D H W array axes as stored, slowest first; X Y Z the same axes as NIfTI counts them.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class Scan:
    """An image as it is stored, with all that puts a segmentation back in its place.

    A NIfTI array (X, Y, Z, T) is transposed to (T, Z, Y, X), never reoriented; a DICOM series is (1, slice, row,
    column), its slices in the order of their positions.

    Attributes:
        name: what the outputs are called, "patient001_frame01".
        array: (T, D, H, W), real numbers in the image's own units.
        affine: (4, 4) from voxel (x, y, z) to millimetres, right anterior superior, as nibabel has it; None where the
            source has no geometry (pictures, HDF5, plain arrays).
        spacing_mm: voxel size of D, H, W; None where unknown. An array may have a spacing and no affine.
        slices_along: array axis (0 D, 1 H, 2 W) across which the slices were acquired, where the source says so (a
            DICOM series, a single slice, a caller's choice); None where it is to be found, see `slice_axis`.
        source: file or folder it was read from.
        header: the NIfTI header it came with, None for other sources.
        stored_shape: shape of the stored array in NIfTI order, which may have had two axes or trailing ones.
        dicom: what a DICOM segmentation must refer to: the source's data sets in the order of D, without pixels; None
            for other sources.
    """

    name: str
    array: np.ndarray
    affine: np.ndarray | None = None
    spacing_mm: tuple[float, float, float] | None = None
    slices_along: int | None = None
    source: Path | None = None
    header: Any = None
    stored_shape: tuple[int, ...] | None = None
    dicom: Any = None
