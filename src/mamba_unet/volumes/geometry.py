"""Where an array lies in the patient: voxel sizes, directions, and the order of axes that a network sees.

D H W array axes as stored, slowest first; X Y Z the same axes as NIfTI counts them.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from mamba_unet.volumes.volume import Volume

log = logging.getLogger(__name__)

SLICE_AXES = ("z", "y", "x")  # D, H, W by NIfTI's names
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])  # ITK and DICOM count left and posterior, NIfTI right and anterior
# what slices are called that lie across an axis of this direction
PLANES = {"L": "sagittal", "R": "sagittal", "P": "coronal", "A": "coronal", "I": "axial", "S": "axial"}
THROUGH_PLANE = 1.5  # a spacing so many times each other one is between slices, not within
RIGHT_ANGLE = 1e-3  # cosine between two axes that counts as rounding


def voxel_size_mm(affine: np.ndarray) -> tuple[float, float, float]:
    """Voxel size in array order (D, H, W) by an affine of (X, Y, Z), to the nearest nanometre.

    Rounded because headers hold it as float32. Of a sheared affine (a gantry's tilt), the two axes nearest to a right
    angle keep their lengths, and the third size is the distance between their planes. So the product is always the
    volume of a voxel.
    """
    axes = np.asarray(affine, float)[:3, :3]
    lengths = np.linalg.norm(axes, axis=0)
    unit = axes / np.where(lengths > 0, lengths, 1)
    cosines = np.abs(unit.T @ unit)[[0, 0, 1], [1, 2, 2]]  # of XY, XZ, YZ
    if cosines.max() > RIGHT_ANGLE:
        a, b, third = ((0, 1, 2), (0, 2, 1), (1, 2, 0))[int(cosines.argmin())]
        plane = np.linalg.norm(np.cross(axes[:, a], axes[:, b]))
        # where all three lean, the first two do not span a rectangle: their own area divides as well
        lengths[third] = abs(np.linalg.det(axes)) / plane
        lengths[b] = plane / lengths[a]
    x, y, z = lengths.round(6).tolist()
    return z, y, x


def singular(affine: np.ndarray) -> bool:
    """Whether an affine (4, 4) loses a direction or a size."""
    axes = affine[:3, :3]
    if not np.isfinite(affine).all():
        return True
    return abs(np.linalg.det(axes)) <= 1e-9 * np.prod(np.linalg.norm(axes, axis=0))


def through_plane(spacing_mm: Sequence[float]) -> int | None:
    """The axis whose spacing is at least 1.5 times each other one: slices were acquired across it; None without one."""
    *_, second, largest = sorted(spacing_mm)
    return list(spacing_mm).index(largest) if largest >= THROUGH_PLANE * second else None


def axis_codes(affine: np.ndarray) -> str:
    """nibabel's codes of the directions nearest to the axes, in array order, by an affine of (X, Y, Z): "SPL"."""
    import nibabel as nib

    return "".join(reversed(nib.aff2axcodes(affine)))


def misplacement(image: "Volume", label: "Volume") -> float:
    """How far apart, in voxels of the image, the two affines put the corners of the image; 0 where one is unknown."""
    if image.orientation is None or label.orientation is None:
        return 0.0
    depth, height, width = image.shape
    corners = np.array([(x, y, z, 1) for x in (0, width - 1) for y in (0, height - 1) for z in (0, depth - 1)], float).T
    return float(np.abs(np.linalg.solve(image.affine, label.affine @ corners) - corners).max())


def slice_axis(volume: "Volume", orientation: str | None = None) -> int:
    """The array axis (0 D, 1 H, 2 W) across which to cut the slices that a network sees.

    In this order: what the source or the caller says; the only axis of length 1; the axis whose spacing is at least
    1.5 times each other one, which is the acquisition's through-plane axis; the axis that runs as the training data's
    slices do, up to its sign, where both directions are known; else D, NIfTI's Z.

    Args:
        volume: the image.
        orientation: axis codes of the training arrays in array order, "SPL"; None where unknown.
    """
    if volume.slices_along is not None:
        return volume.slices_along
    if volume.shape.count(1) == 1:
        return volume.shape.index(1)
    if volume.spacing_mm is not None and (axis := through_plane(volume.spacing_mm)) is not None:
        return axis
    if volume.orientation is not None and orientation is not None:
        return [PLANES[code] for code in volume.orientation].index(PLANES[orientation[0]])
    return 0


@dataclass(frozen=True)
class Turn:
    """The axes of a frame (D, H, W) in the order and direction in which the network sees them.

    Attributes:
        axes: the frame's axis that becomes each axis of the result; the first is the slicing axis.
        flipped: whether each axis of the result runs against the frame's.
    """

    axes: tuple[int, int, int] = (0, 1, 2)
    flipped: tuple[bool, bool, bool] = (False, False, False)

    @classmethod
    def between(cls, here: str, there: str) -> "Turn":
        """From arrays of axis codes `here` ("SPL") to arrays of codes `there`."""
        planes = [PLANES[code] for code in here]
        axes = tuple(planes.index(PLANES[code]) for code in there)
        return cls(axes, tuple(here[axis] != code for axis, code in zip(axes, there, strict=True)))

    def affine(self, affine: np.ndarray, shape: Sequence[int]) -> np.ndarray:
        """The affine, of (X, Y, Z), of what `apply` makes of an array of `shape` (D, H, W) with this affine."""
        columns = [2 - axis for axis in reversed(self.axes)]  # the old column of each new one
        result = affine.copy()
        result[:, :3] = affine[:, columns]
        for column, (axis, flip) in enumerate(zip(reversed(self.axes), reversed(self.flipped), strict=True)):
            if flip:
                result[:3, 3] += result[:3, column] * (shape[axis] - 1)
                result[:3, column] *= -1
        return result

    def apply(self, array: np.ndarray) -> np.ndarray:
        """(..., D, H, W) -> (..., slices, rows, columns), contiguous."""
        lead = array.ndim - 3
        turned = array.transpose(*range(lead), *(lead + axis for axis in self.axes))
        return np.ascontiguousarray(turned[self._steps()])

    def undo(self, array: np.ndarray) -> np.ndarray:
        """(..., slices, rows, columns) -> (..., D, H, W), contiguous: the inverse of `apply`."""
        lead = array.ndim - 3
        back = array[self._steps()].transpose(*range(lead), *(lead + self.axes.index(axis) for axis in range(3)))
        return np.ascontiguousarray(back)

    def _steps(self) -> tuple[Any, ...]:
        return (..., *(slice(None, None, -1 if flip else 1) for flip in self.flipped))


def turn_to_network(volume: "Volume", orientation: str | None) -> Turn:
    """How to turn a volume's frames for a network: slices first, and all axes as in training where that can be known.

    Where the directions of the volume and of the training data are known and the volume's slices run the same way
    (`slice_axis`), rows and columns are turned as well. Where they run another way, which is warned of, and where
    directions are unknown, the slicing axis comes first and the others keep their order.

    Args:
        volume: the image.
        orientation: axis codes of the training arrays in array order, "SPL"; None where unknown.
    """
    axis = slice_axis(volume, orientation)
    here = volume.orientation
    if here is not None and orientation is not None:
        planes = [PLANES[code] for code in here]
        if planes[axis] == PLANES[orientation[0]]:
            return Turn.between(here, orientation)
        log.warning(
            "%s: its slices are %s, the network was trained on %s ones; the result may be poor. Choose another slicing "
            "axis (--slice-axis) if this is wrong",
            volume.name,
            planes[axis],
            PLANES[orientation[0]],
        )
    return Turn((axis, *(other for other in range(3) if other != axis)))
