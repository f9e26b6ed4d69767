"""One case: an image, its label and where they lie in space."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True, eq=False)
class Case:
    """One image volume (or one 2D image, then D = 1) and its label.

    Axes are (D, H, W): slices, rows, columns; an image has its C channels before them. A NIfTI array (X, Y, Z) is
    transposed to (Z, Y, X) in stored order, never reoriented.

    Attributes:
        identifier: unique in its data set, `patient001_frame01`.
        patient: groups the cases that must stay in one split, `patient001`.
        image: (C, D, H, W) float32, in 0..1 where it is prepared.
        label: (D, H, W) uint8 class indices, `views.labels.IGNORE` where there is no ground truth; or None.
        spacing_mm: voxel size per array axis; None where the file does not tell.
        orientation: nibabel's axis codes of the array axes in array order, e.g. "SPL"; None where unknown.
        affine: (4, 4), of the *stored* NIfTI array (X, Y, Z); None where unknown.
        sources: the image's files: one per channel, or one for all; of a volume in slices, the first of each.
        frames_are_channels: the fourth axis of its file is channels, not time.
        stored_sha256: of the image as stored, before its intensities were scaled; empty where unknown.
        stored_quantiles: of its intensities, see `views.intensity.intensity_quantiles`; empty where unknown.
        scribble: as the label, `IGNORE` where nothing is marked; or None.
        label_names: what the label's own file calls its values, from 0 on; empty where it does not.
    """

    identifier: str
    patient: str
    image: np.ndarray
    label: np.ndarray | None
    spacing_mm: tuple[float, float, float] | None
    orientation: str | None
    affine: np.ndarray | None
    sources: tuple[Path, ...]
    frames_are_channels: bool = False
    stored_sha256: str = ""
    stored_quantiles: Sequence[Sequence[float]] = ()
    scribble: np.ndarray | None = None
    label_names: Sequence[str] = ()

    @property
    def source(self) -> Path:
        """The image's file, of several channels the first's."""
        return self.sources[0]
