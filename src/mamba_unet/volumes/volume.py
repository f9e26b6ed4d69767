"""A scan: an array as stored, where it lies in the patient, and along which axis the network sees it.

T frames (1 unless a cine), D H W array axes as stored, slowest first; X Y Z the same axes as NIfTI counts them.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mamba_unet.volumes.formats import axis_codes, read_nifti, through_plane, voxel_size_mm

log = logging.getLogger(__name__)

SLICE_AXES = ("z", "y", "x")  # D, H, W by NIfTI's names
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])  # ITK and DICOM count left and posterior, NIfTI right and anterior
# what slices are called that lie across an axis of this direction
PLANES = {"L": "sagittal", "R": "sagittal", "P": "coronal", "A": "coronal", "I": "axial", "S": "axial"}


@dataclass(frozen=True, eq=False)
class Volume:
    """An image as it is stored, with all that puts a segmentation back in its place.

    A NIfTI array (X, Y, Z, T) is transposed to (T, Z, Y, X), never reoriented; a DICOM series is (1, slice, row,
    column), its slices in the order of their positions.

    Attributes:
        name: what the outputs are called, "patient001_frame01".
        array: (T, D, H, W), real numbers in the image's own units.
        affine: (4, 4) from voxel (x, y, z) to millimetres, right anterior superior, as nibabel has it; None where the
            source has no geometry (pictures, HDF5, plain arrays).
        spacing_mm: voxel size of D, H, W, from the affine where that is known; None where unknown. An array may have
            a spacing and no affine.
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

    def __post_init__(self) -> None:
        if self.spacing_mm is None and self.affine is not None:
            object.__setattr__(self, "spacing_mm", voxel_size_mm(self.affine))

    @property
    def orientation(self) -> str | None:
        """nibabel's codes of the directions nearest to D, H, W, e.g. "SPL"; None without an affine."""
        return None if self.affine is None else axis_codes(self.affine)

    @classmethod
    def from_array(cls, array: np.ndarray, spacing_mm: Sequence[float] | None = None, name: str = "image") -> "Volume":
        """A scan of an array (H, W), (D, H, W) or (T, D, H, W) of real numbers.

        Args:
            array: intensities in the image's own units.
            spacing_mm: voxel size of D, H, W; of a single slice, the first is its thickness.
            name: what outputs are called.

        Raises:
            ValueError: another number of axes, an empty array, complex numbers or text, a spacing that is none.
        """
        array = np.asarray(array)
        if not 2 <= array.ndim <= 4 or not array.size or array.dtype.kind not in "biuf":
            raise ValueError(
                f"{name}: array of shape {array.shape}, type {array.dtype}; expected real numbers as (H, W), "
                "(D, H, W) or (T, D, H, W), none of them empty"
            )
        if spacing_mm is not None:
            spacing_mm = tuple(float(size) for size in spacing_mm)
            if len(spacing_mm) != 3 or not all(0 < size < np.inf for size in spacing_mm):
                raise ValueError(
                    f"{name}: spacing_mm={spacing_mm}; expected three positive sizes in mm, of D, H, W (for a single "
                    "slice, its thickness first)"
                )
        frames = array.reshape((1,) * (4 - array.ndim) + array.shape)
        return cls(name, _native(frames), spacing_mm=spacing_mm)

    @classmethod
    def from_nibabel(cls, image: Any, name: str = "image", source: Path | None = None) -> "Volume":
        """A scan of a nibabel image of two, three or four axes (the fourth is time), scaled as its header says.

        Raises:
            UnreadableError: complex numbers or colours, more axes, a singular affine.
        """
        from nibabel.nifti1 import Nifti1Header

        array, affine = read_nifti(image, source or Path(image.get_filename() or name), cine=True)
        return cls(
            name,
            _native(array if array.ndim == 4 else array[None]),
            affine,
            source=source,
            header=image.header if isinstance(image.header, Nifti1Header) else None,
            stored_shape=image.shape,
        )

    @classmethod
    def from_sitk(cls, image: Any, name: str = "image") -> "Volume":
        """A scan of a SimpleITK image of two, three or four axes (the last in ITK's order is time).

        Raises:
            ValueError: vectors or colours, complex numbers.
        """
        import SimpleITK as sitk

        dimension = image.GetDimension()
        pixel = image.GetPixelIDTypeAsString()
        if image.GetNumberOfComponentsPerPixel() > 1 or "complex" in pixel or "label" in pixel:
            raise ValueError(
                f"{name}: pixels are {pixel} with {image.GetNumberOfComponentsPerPixel()} components; expected one "
                "real number each: take one component (SimpleITK.VectorIndexSelectionCast) or the magnitude"
            )
        axes = min(dimension, 3)
        direction = np.reshape(image.GetDirection(), (dimension, dimension))[:axes, :axes]
        affine = np.eye(4)
        affine[:axes, :axes] = direction * image.GetSpacing()[:axes]
        affine[:axes, 3] = image.GetOrigin()[:axes]
        scan = cls.from_array(sitk.GetArrayFromImage(image), name=name)
        affine = LPS_TO_RAS @ affine
        return replace(scan, affine=affine, spacing_mm=voxel_size_mm(affine), stored_shape=image.GetSize())


def _native(array: np.ndarray) -> np.ndarray:
    """In the machine's byte order, which torch demands."""
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def slice_axis(scan: Volume, orientation: str | None = None) -> int:
    """The array axis (0 D, 1 H, 2 W) across which to cut the slices that a network sees.

    In this order: what the source or the caller says; the only axis of length 1; the axis whose spacing is at least
    1.5 times each other one, which is the acquisition's through-plane axis; the axis that runs as the training data's
    slices do, up to its sign, where both directions are known; else D, NIfTI's Z.

    Args:
        scan: the scan.
        orientation: axis codes of the training arrays in array order, "SPL"; None where unknown.
    """
    if scan.slices_along is not None:
        return scan.slices_along
    lengths = scan.array.shape[-3:]
    if lengths.count(1) == 1:
        return lengths.index(1)
    if scan.spacing_mm is not None and (axis := through_plane(scan.spacing_mm)) is not None:
        return axis
    if scan.orientation is not None and orientation is not None:
        return [PLANES[code] for code in scan.orientation].index(PLANES[orientation[0]])
    return 0


@dataclass(frozen=True)
class Turn:
    """The axes of a frame (D, H, W) in the order and direction in which the network sees them.

    Attributes:
        axes: the frame's axis that becomes each axis of the result; the first is the slicing axis.
        flipped: whether each axis of the result runs against the frame's.
    """

    axes: tuple[int, int, int]
    flipped: tuple[bool, bool, bool] = (False, False, False)

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


def turn_to_network(scan: Volume, orientation: str | None) -> Turn:
    """How to turn a scan's frames for a network: slices first, and all axes as in training where that can be known.

    Where the directions of the scan and of the training data are known and the scan's slices run the same way
    (`slice_axis`), rows and columns are turned as well. Where they run another way, which is warned of, and where
    directions are unknown, the slicing axis comes first and the others keep their order.

    Args:
        scan: the scan.
        orientation: axis codes of the training arrays in array order, "SPL"; None where unknown.
    """
    axis = slice_axis(scan, orientation)
    here = scan.orientation
    if here is not None and orientation is not None:
        planes = [PLANES[code] for code in here]
        if planes[axis] == PLANES[orientation[0]]:
            axes = tuple(planes.index(PLANES[code]) for code in orientation)
            return Turn(axes, tuple(here[axis] != code for axis, code in zip(axes, orientation, strict=True)))
        log.warning(
            "%s: its slices are %s, the network was trained on %s ones; expect little, or choose another slicing axis",
            scan.name,
            planes[axis],
            PLANES[orientation[0]],
        )
    return Turn((axis, *(other for other in range(3) if other != axis)))
