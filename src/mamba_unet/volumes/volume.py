"""An image or a label as it is stored, and where it lies in the patient.

T frames (1 unless a cine), C channels (colours, modalities; 1 for most), D H W array axes as stored, slowest first;
X Y Z the same axes as NIfTI counts them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mamba_unet.volumes.geometry import LPS_TO_RAS, axis_codes, singular, voxel_size_mm


@dataclass(frozen=True, eq=False)
class Volume:
    """An image as it is stored, with all that puts a segmentation back in its position.

    A NIfTI array (X, Y, Z, T) is transposed to (T, 1, Z, Y, X), never reoriented; a DICOM series is (1, 1, slice, row,
    column), its slices in the order of their positions; a colour picture is (1, 3, 1, row, column).

    Attributes:
        name: what the outputs are called, "patient001_frame01".
        array: (T, C, D, H, W), real numbers in the image's own units.
        affine: (4, 4) from voxel (x, y, z) to millimetres, right anterior superior, as nibabel has it; None where the
            source has no geometry (pictures, HDF5, plain arrays).
        spacing_mm: voxel size of D, H, W, from the affine where that is known; None where unknown. An array may have
            a spacing and no affine.
        directed: whether the source tells where the axes run; else the affine is a guess, but for its sizes.
        guessed_size: whether the size of its voxels, or the thickness of a single slice, was taken because the source
            does not tell it; volumes in ml are then a guess.
        slices_along: array axis (0 D, 1 H, 2 W) across which the slices were acquired, where the source says so (a
            DICOM series, a single slice, a caller's choice); None where it is to be found, see `geometry.slice_axis`.
        source: file or folder it was read from.
        header: the NIfTI header it came with, None for other sources.
        stored_shape: shape of the stored array of one channel in NIfTI order, which may have had two axes or trailing
            ones.
        dicom: what a DICOM segmentation must refer to: the source's data sets in the order of D, without pixels; None
            for other sources.
        dicom_frames: of each of these data sets, which of its frames it stands for, from 0; empty for other sources.
        notes: remarks on the file that its user should see.
        class_names: of a label whose file tells them; the first is background.
    """

    name: str
    array: np.ndarray
    affine: np.ndarray | None = None
    spacing_mm: tuple[float, float, float] | None = None
    directed: bool = True
    guessed_size: bool = False
    slices_along: int | None = None
    source: Path | None = None
    header: Any = None
    stored_shape: tuple[int, ...] | None = None
    dicom: Any = None
    dicom_frames: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()
    class_names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.array.ndim != 5:
            raise ValueError(f"{self.name}: array of shape {self.array.shape}; expected (T, C, D, H, W)")
        if self.spacing_mm is None and self.affine is not None:
            object.__setattr__(self, "spacing_mm", voxel_size_mm(self.affine))

    @property
    def frames(self) -> int:
        """T."""
        return self.array.shape[0]

    @property
    def channels(self) -> int:
        """C."""
        return self.array.shape[1]

    @property
    def told_mm(self) -> tuple[float, float, float] | None:
        """The voxel size, where somebody gave one: an identity affine without a unit is what a NIfTI file has that
        nobody gave a size."""
        if self.spacing_mm != (1, 1, 1) or self.header is None or self.header.get_xyzt_units()[0] != "unknown":
            return self.spacing_mm
        return None if np.array_equal(np.abs(self.affine), np.eye(4)) else self.spacing_mm

    @property
    def shape(self) -> tuple[int, int, int]:
        """(D, H, W)."""
        return self.array.shape[2:]

    @property
    def grey(self) -> np.ndarray:
        """(T, D, H, W) of an image of one channel, or of the first one."""
        return self.array[:, 0]

    @property
    def orientation(self) -> str | None:
        """nibabel's codes of the directions nearest to D, H, W, e.g. "SPL"; None where it is unknown."""
        return axis_codes(self.affine) if self.directed and self.affine is not None else None

    @property
    def where(self) -> Path:
        """What errors name."""
        return self.source or Path(self.name)

    def frames_as_channels(self) -> "Volume":
        """The same with its frames taken as channels, as data sets with several modalities store them in one file."""
        shape = None if self.stored_shape is None else self.stored_shape[:3]
        return replace(self, array=self.array.swapaxes(0, 1), stored_shape=shape)

    @classmethod
    def from_array(
        cls,
        array: np.ndarray,
        spacing_mm: Sequence[float] | None = None,
        name: str = "image",
        channel_axis: int | None = None,
    ) -> "Volume":
        """A volume of an array (H, W), (D, H, W) or (T, D, H, W) of real numbers.

        Args:
            array: intensities in the image's own units.
            spacing_mm: voxel size of D, H, W; of a single slice, the first is its thickness.
            name: what outputs are called.
            channel_axis: the axis of colours or modalities, where there is one besides: -1 for (H, W, 3).

        Raises:
            ValueError: another number of axes, an empty array, complex numbers or text, a spacing that is none.
        """
        array = np.asarray(array)
        shape, grey_axes = array.shape, array.ndim - (channel_axis is not None)
        if not 2 <= grey_axes <= 4 or not array.size or array.dtype.kind not in "biuf":
            raise ValueError(
                f"{name}: array of shape {shape}, type {array.dtype}; expected real numbers as (H, W), "
                "(D, H, W) or (T, D, H, W), none of them empty; channels besides need channel_axis"
            )
        if spacing_mm is not None:
            spacing_mm = tuple(float(size) for size in spacing_mm)
            if len(spacing_mm) != 3 or not all(0 < size < np.inf for size in spacing_mm):
                raise ValueError(
                    f"{name}: spacing_mm={spacing_mm}; expected three positive sizes in mm, of D, H, W (for a single "
                    "slice, its thickness first)"
                )
        channels = array[None] if channel_axis is None else np.moveaxis(array, channel_axis, 0)  # C first
        channels = channels.reshape(len(channels), *(1,) * (4 - grey_axes), *channels.shape[1:])  # C T D H W
        return cls(name, native(channels.swapaxes(0, 1)), spacing_mm=spacing_mm)

    @classmethod
    def from_nibabel(cls, image: Any, name: str = "image", source: Path | None = None) -> "Volume":
        """A volume of a nibabel image of two, three or four axes (the fourth is time), scaled as its header says.

        Raises:
            UnreadableError: see `nifti.read_nifti`.
        """
        from mamba_unet.volumes.nifti import read_nifti

        return read_nifti(image, source or Path(image.get_filename() or name), name)

    @classmethod
    def from_sitk(cls, image: Any, name: str = "image") -> "Volume":
        """A volume of a SimpleITK image of two, three or four axes (the last in ITK's order is time).

        A vector image of 3 or 4 unsigned bytes is a colour image (the fourth, opacity, is left out).

        Raises:
            ValueError: other vectors, complex numbers.
        """
        import SimpleITK as sitk

        dimension, components = image.GetDimension(), image.GetNumberOfComponentsPerPixel()
        pixel = image.GetPixelIDTypeAsString()
        colour = components in (3, 4) and pixel == "vector of 8-bit unsigned integer"
        if (components > 1 and not colour) or "complex" in pixel or "label" in pixel:
            raise ValueError(
                f"{name}: pixels are {pixel} with {components} components; expected one real number each, or colours: "
                "take one component (SimpleITK.VectorIndexSelectionCast) or the magnitude"
            )
        direction = np.reshape(image.GetDirection(), (dimension, dimension))
        array = sitk.GetArrayFromImage(image)
        return in_lps(array, direction * image.GetSpacing(), np.array(image.GetOrigin()), name, colour)


def in_lps(
    array: np.ndarray, steps: np.ndarray, origin: np.ndarray, name: str, colours: bool = False, sized: bool = True
) -> Volume:
    """A volume of an array in the space of ITK, left posterior superior, as MetaImage, NRRD and SimpleITK tell it.

    Args:
        array: (H, W), (D, H, W) or (T, D, H, W); with colours in one more axis, the last.
        steps: between voxels along X, Y, Z, T, as columns.
        origin: of the first voxel.
        name: of the volume.
        colours: whether there are, of three or four bytes (the fourth, opacity, is left out).
        sized: whether the steps are known; else a note says that they were taken.

    Raises:
        RefusedError: other vectors than colours, or axes that do not span a space.
    """
    from mamba_unet.volumes.formats import RefusedError

    if colours and (array.dtype != np.uint8 or array.shape[-1] not in (3, 4)):
        raise RefusedError(
            f"{array.shape[-1]} values of {array.dtype} per voxel; expected one, or colours in bytes: take one "
            "component, or the magnitude"
        )
    axes = min(len(steps), 3)
    affine = np.eye(4)
    affine[:axes, :axes], affine[:axes, 3] = steps[:axes, :axes], origin[:axes]
    affine = LPS_TO_RAS @ affine
    if singular(affine):
        raise RefusedError("its axes do not span a space: voxel size or direction is lost")
    size = array.shape[-2::-1] if colours else array.shape[::-1]
    volume = Volume.from_array(array[..., :3] if colours else array, name=name, channel_axis=-1 if colours else None)
    what = "the header tells no size of its voxels" if not sized else "a single slice without its thickness"
    notes = () if sized and axes == 3 else (f"{what}; 1 mm is taken, so volumes are a guess",)
    return replace(
        volume,
        affine=affine,
        spacing_mm=voxel_size_mm(affine),
        guessed_size=bool(notes),
        stored_shape=tuple(size),
        notes=notes,
    )


def native(array: np.ndarray) -> np.ndarray:
    """In the machine's byte order, which torch demands."""
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def join_slices(volumes: Sequence[Volume]) -> Volume:
    """One volume of slices that lie in files of their own, in their order.

    Raises:
        UnreadableError: a file that is no single slice of the first one's size.
    """
    from mamba_unet.volumes.formats import UnreadableError

    first = volumes[0]
    if len(volumes) == 1:
        return first
    expected = (first.frames, first.channels, 1, *first.shape[1:])
    for volume in volumes:
        if volume.array.shape != expected:
            raise UnreadableError(
                volume.where, f"slice of shape {volume.shape[1:]}, the first is {first.shape[1:]}; expected one size"
            )
    return Volume(first.name, np.concatenate([volume.array for volume in volumes], axis=2), source=first.source)


def join_channels(volumes: Sequence[Volume]) -> Volume:
    """One volume of channels that lie in files of their own, in their order, in the first one's position.

    Raises:
        UnreadableError: a channel of another shape, or elsewhere in space.
    """
    from mamba_unet.volumes.formats import UnreadableError
    from mamba_unet.volumes.geometry import misplacement

    first = volumes[0]
    if len(volumes) == 1:
        return first
    for volume in volumes[1:]:
        if volume.shape != first.shape or volume.frames != first.frames:
            raise UnreadableError(
                volume.where,
                f"shape {volume.shape} (D, H, W), but {first.where.name} has {first.shape}; the channels of a case "
                "must lie on one grid: resample them onto the first one's",
            )
        if (distance := misplacement(first, volume)) > 0.1:
            raise UnreadableError(
                volume.where,
                f"lies up to {distance:.3g} voxels from {first.where.name}; the channels of a case must lie on one "
                "grid: resample them onto the first one's",
            )
    kind = np.result_type(*(volume.array.dtype for volume in volumes))
    array = np.concatenate([volume.array.astype(kind, copy=False) for volume in volumes], axis=1)
    return replace(first, array=array, notes=tuple(note for volume in volumes for note in volume.notes))
