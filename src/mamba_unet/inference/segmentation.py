"""A segmented image, in the geometry of its image: what can be asked of it, and written.

T frames (1 unless a cine), C channels, D H W array axes as stored; K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mamba_unet.measures.statistics import StructureStatistics, structure_statistics
from mamba_unet.measures.uncertainty import uncertainty
from mamba_unet.volumes.geometry import LPS_TO_RAS
from mamba_unet.volumes.volume import Volume

if TYPE_CHECKING:
    import nibabel
    import SimpleITK


@dataclass(frozen=True, eq=False)
class Segmentation:
    """A segmented image, in the geometry of its image.

    Attributes:
        volume: the image as it was read, with its geometry.
        labels: (T, D, H, W) uint8 class indices.
        image: what the networks saw before resampling: (T, C, D, H, W) float32, 0..1.
        class_names: the first is background.
        slice_axis: 0, 1 or 2, the axis of (D, H, W) that was sliced across.
        probabilities: (T, K, D, H, W) float32, or None where they were not asked for.
        label_values: the value of each class in a picture; empty: its index.
        network_seconds: the time in the networks, its share of the batches.
        misfits: in what image or answer are unlike those of the training, see `inference.fit`.
        edited: a person has changed the labels.
        scaled: the values of `volume` are a prepared data set's, 0..1, not the image's own.
    """

    volume: Volume
    labels: np.ndarray
    image: np.ndarray
    class_names: Sequence[str]
    slice_axis: int
    probabilities: np.ndarray | None = None
    label_values: Sequence[int] = ()
    network_seconds: float = 0.0
    misfits: Sequence[str] = ()
    edited: bool = False
    scaled: bool = False

    @property
    def warning(self) -> str:
        """The misfits as a sentence; empty where there are none."""
        return f"{'; '.join(self.misfits)}; its result may be wrong" if self.misfits else ""

    @property
    def label(self) -> np.ndarray:
        """The labels in the shape that the image had: (H, W), (D, H, W), or (T, D, H, W) of more than one frame."""
        if self.volume.stored_shape is not None and len(self.volume.stored_shape) == 2:
            return self.labels[0, 0]
        return self.labels[0] if len(self.labels) == 1 else self.labels

    @property
    def spacing_mm(self) -> tuple[float, float, float] | None:
        """Voxel size of D, H, W; None where the image does not tell."""
        return self.volume.told_mm

    @cached_property
    def statistics(self) -> list[StructureStatistics]:
        """Volume, mean intensity, area per slice and more of every structure in every frame."""
        # a mean over several channels says nothing, and one over scaled values is in no unit
        image = self.volume.grey if self.volume.channels == 1 and not self.scaled else None
        return structure_statistics(
            self.labels, self.class_names, self.spacing_mm, image, self.slice_axis, self.uncertainty
        )

    @cached_property
    def uncertainty(self) -> np.ndarray | None:
        """(T, D, H, W) float32, 0..1, see `measures.uncertainty`; None without probabilities."""
        return None if self.probabilities is None else uncertainty(self.probabilities)

    def save(self, path: str | Path) -> None:
        """Write `path` (`.nii.gz`) with the input's shape, affine and header; class names go into an extension.

        An image without geometry gets the identity, in voxels.
        """
        from mamba_unet.volumes.write import save_nifti

        save_nifti(path, self.volume, self.labels, class_names=self.class_names)

    def save_probabilities(self, path: str | Path) -> None:
        """Write the probabilities as float32 NIfTI, its axes X Y Z [T] K.

        Raises:
            ValueError: they were not asked for.
        """
        from mamba_unet.volumes.write import save_nifti

        if self.probabilities is None:
            raise ValueError(f"{self.volume.name} was segmented without probabilities; ask with probabilities=True")
        save_nifti(path, self.volume, self.probabilities, dtype=np.float32, class_names=self.class_names)

    def save_uncertainty(self, path: str | Path) -> None:
        """Write the uncertainty of each voxel as float32 NIfTI.

        Raises:
            ValueError: the probabilities were not asked for.
        """
        from mamba_unet.volumes.write import save_nifti

        if self.uncertainty is None:
            raise ValueError(f"{self.volume.name} was segmented without probabilities; ask with probabilities=True")
        save_nifti(path, self.volume, self.uncertainty, dtype=np.float32)

    def save_dicom_seg(self, path: str | Path, frame: int | None = None, series_uid: str | None = None) -> None:
        """Write a DICOM segmentation that refers to the series it was made from.

        Args:
            path: `.dcm`.
            frame: of a cine, which one: a DICOM segmentation has no axis of time.
            series_uid: of the segmentation, which the phases of a cine may share; None makes a new one.

        Raises:
            ValueError: the image is no DICOM series, or a cine and no frame is chosen.
        """
        from mamba_unet.drawing.colors import class_color
        from mamba_unet.volumes.dicom.seg import save_dicom_seg

        colors = [class_color(index) for index in range(1, len(self.class_names))]
        label = self.labels[frame or 0]
        save_dicom_seg(path, self.volume, label, self.class_names, colors, frame, self.edited, series_uid)

    def save_dicom_report(self, path: str | Path, segmentations: Sequence[str | Path]) -> None:
        """Write a DICOM structured report with the volume of every structure, which refers to its segmentations.

        Args:
            path: `.dcm`.
            segmentations: what `save_dicom_seg` wrote, of each frame one.

        Raises:
            ValueError: the image is no DICOM series.
        """
        from mamba_unet.volumes.dicom.report import save_dicom_report

        volumes_ml = [[one.volume_ml for one in self.statistics if one.frame == t] for t in range(len(self.labels))]
        save_dicom_report(path, self.volume, segmentations, volumes_ml, self.class_names)

    def save_picture(self, path: str | Path) -> None:
        """Write the labels as a picture of the input's size (.png; .tif, which may have pages), with the values that
        the masks of the training data had.

        Raises:
            ValueError: several frames, or several slices in a PNG.
        """
        from mamba_unet.volumes.pictures import save_mask

        if len(self.labels) > 1:
            raise ValueError(f"{self.volume.name}: {len(self.labels)} frames do not fit into a picture; write NIfTI")
        save_mask(path, self.labels[0], self.label_values)

    def to_nibabel(self) -> "nibabel.Nifti1Image":
        """The labels as an image of nibabel, as `save` writes it."""
        from mamba_unet.volumes.write import to_nibabel

        return to_nibabel(self.volume, self.labels, class_names=self.class_names)

    def to_sitk(self) -> "SimpleITK.Image":
        """The labels as an image of SimpleITK, of as many axes as `label`, in the position of the image.

        A single slice in another plane than x y keeps its pixels' size alone: ITK has no position for it.
        """
        import SimpleITK as sitk

        image = sitk.GetImageFromArray(self.label, isVector=False)
        size, axes = image.GetDimension(), min(image.GetDimension(), 3)
        spacing, direction = np.ones(size), np.eye(size)
        if self.spacing_mm is not None:
            spacing[:axes] = self.spacing_mm[::-1][:axes]
        if self.volume.affine is not None:
            affine = LPS_TO_RAS @ self.volume.affine
            cosines = affine[:axes, :axes] / spacing[:axes]
            if (
                axes == 3 or abs(np.linalg.det(cosines)) > 0.999
            ):  # a slice of another plane has no position in ITK's x y
                direction[:axes, :axes] = cosines
                image.SetOrigin([*affine[:axes, 3], *[0.0] * (size - axes)])
        image.SetSpacing(spacing.tolist())
        image.SetDirection(direction.ravel().tolist())
        return image
