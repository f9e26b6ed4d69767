"""From a scan to its segmentation, in the scan's own geometry.

T frames (1 unless a cine), D H W array axes as stored; K classes. The networks see slices across one of D, H, W.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from mamba_unet.data.case import Case
from mamba_unet.inference.scores import Member, segment_slices
from mamba_unet.measures.statistics import StructureStatistics, structure_statistics
from mamba_unet.models.checkpoint import find_checkpoint
from mamba_unet.models.loading import load_checkpoint
from mamba_unet.views.intensity import normalise_intensity
from mamba_unet.volumes.formats import UnreadableError
from mamba_unet.volumes.read import as_volume
from mamba_unet.volumes.volume import LPS_TO_RAS, PLANES, SLICE_AXES, Turn, Volume, turn_to_network

if TYPE_CHECKING:
    import nibabel
    import SimpleITK

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Segmentation:
    """A segmented scan, in the geometry of its image.

    Attributes:
        scan: the image as it was read, with its geometry.
        labels: (T, D, H, W) uint8 class indices.
        image: what the networks saw before resampling: (T, D, H, W) float32, 0..1.
        class_names: the first is background.
        slice_axis: 0, 1 or 2, the axis of (D, H, W) that was sliced across.
        probabilities: (T, K, D, H, W) float32, or None where they were not asked for.
        network_seconds: what it took in the networks, its share of the batches.
    """

    scan: Volume
    labels: np.ndarray
    image: np.ndarray
    class_names: Sequence[str]
    slice_axis: int
    probabilities: np.ndarray | None = None
    network_seconds: float = 0.0

    @property
    def label(self) -> np.ndarray:
        """The labels in the shape that the scan had: (H, W), (D, H, W), or (T, D, H, W) of more than one frame."""
        if self.scan.stored_shape is not None and len(self.scan.stored_shape) == 2:
            return self.labels[0, 0]
        return self.labels[0] if len(self.labels) == 1 else self.labels

    @property
    def spacing_mm(self) -> tuple[float, float, float] | None:
        """Voxel size of D, H, W; None where the scan does not tell."""
        return self.scan.spacing_mm

    @cached_property
    def statistics(self) -> list[StructureStatistics]:
        """Volume, mean intensity, area per slice and more of every structure in every frame."""
        return structure_statistics(self.labels, self.class_names, self.spacing_mm, self.scan.array, self.slice_axis)

    def save(self, path: str | Path) -> None:
        """Write `path` (`.nii.gz`) with the input's shape, affine and header; class names go into an extension.

        An image without geometry gets the identity, in voxels.
        """
        from mamba_unet.volumes.write import save_nifti

        save_nifti(path, self.scan, self.labels, class_names=self.class_names)

    def save_probabilities(self, path: str | Path) -> None:
        """Write the probabilities as float32 NIfTI, its axes X Y Z [T] K.

        Raises:
            ValueError: they were not asked for.
        """
        from mamba_unet.volumes.write import save_nifti

        if self.probabilities is None:
            raise ValueError(f"{self.scan.name} was segmented without probabilities; ask with probabilities=True")
        save_nifti(path, self.scan, self.probabilities, dtype=np.float32, class_names=self.class_names)

    def save_dicom_seg(self, path: str | Path, frame: int | None = None) -> None:
        """Write a DICOM segmentation that refers to the series it was made from.

        Args:
            path: `.dcm`.
            frame: of a cine, which one: a DICOM segmentation has no axis of time.

        Raises:
            ValueError: the scan is no DICOM series, or a cine and no frame is chosen.
        """
        from mamba_unet.drawing.colors import class_color
        from mamba_unet.volumes.dicom.seg import save_dicom_seg

        colors = [class_color(index) for index in range(1, len(self.class_names))]
        save_dicom_seg(path, self.scan, self.labels[frame or 0], self.class_names, colors, frame)

    def to_nibabel(self) -> "nibabel.Nifti1Image":
        """The labels as an image of nibabel, as `save` writes it."""
        from mamba_unet.volumes.write import to_nibabel

        return to_nibabel(self.scan, self.labels, class_names=self.class_names)

    def to_sitk(self) -> "SimpleITK.Image":
        """The labels as an image of SimpleITK, of as many axes as `label`, in the place of the scan.

        A single slice in another plane than x y keeps its pixels' size alone: ITK has no place for it.
        """
        import SimpleITK as sitk

        image = sitk.GetImageFromArray(self.label, isVector=False)
        size, axes = image.GetDimension(), min(image.GetDimension(), 3)
        spacing, direction = np.ones(size), np.eye(size)
        if self.spacing_mm is not None:
            spacing[:axes] = self.spacing_mm[::-1][:axes]
        if self.scan.affine is not None:
            affine = LPS_TO_RAS @ self.scan.affine
            cosines = affine[:axes, :axes] / spacing[:axes]
            if axes == 3 or abs(np.linalg.det(cosines)) > 0.999:  # a slice of another plane has no place in ITK's x y
                direction[:axes, :axes] = cosines
                image.SetOrigin([*affine[:axes, 3], *[0.0] * (size - axes)])
        image.SetSpacing(spacing.tolist())
        image.SetDirection(direction.ravel().tolist())
        return image


class PreparedVolume:
    """A scan on its way through the networks: its slices as they are to see them, and their answers so far.

    S slices, R C their rows and columns, in the order and direction of training.

    Args:
        scan: the scan.
        image: (T, D, H, W) float32, intensities prepared.
        turn: from (D, H, W) to (S, R, C).
        num_classes: K where probabilities are wanted, None where not.
    """

    def __init__(self, scan: Volume, image: np.ndarray, turn: Turn, num_classes: int | None = None) -> None:
        self.scan, self.image, self.turn = scan, image, turn
        turned = turn.apply(image)
        self.slices = turned.reshape(-1, *turned.shape[2:])  # (T * S, R, C)
        self.wants_probabilities = num_classes is not None
        self.network_seconds = 0.0
        self.waiting = len(self.slices)  # for the networks
        self._labels = np.empty(turned.shape, np.uint8)
        self._probabilities = None
        if self.wants_probabilities:
            self._probabilities = np.empty((len(turned), num_classes, *turned.shape[1:]), np.float32)

    def fill(self, number: int, label: np.ndarray, probabilities: np.ndarray | None) -> None:
        """Take the answer to `slices[number]`: (R, C), and (K, R, C) where probabilities are wanted."""
        frame, place = divmod(number, self._labels.shape[1])
        self._labels[frame, place] = label
        if self.wants_probabilities:
            self._probabilities[frame, :, place] = probabilities
        self.waiting -= 1

    def finish(self, class_names: Sequence[str]) -> Segmentation:
        """The segmentation, once every slice is answered."""
        return Segmentation(
            scan=self.scan,
            labels=self.turn.undo(self._labels),
            image=self.image,
            class_names=class_names,
            slice_axis=self.turn.axes[0],
            probabilities=None if self._probabilities is None else self.turn.undo(self._probabilities),
            network_seconds=self.network_seconds,
        )


class Predictor:
    """A trained network, or an ensemble of several, that segments new scans in the scans' own geometry.

    Everything the network needs to see a scan as in training comes from the checkpoint. Safe to share between threads
    as long as one at a time uses it.

    Args:
        checkpoint: file or folder that `mamba-unet train` or `save_pretrained` wrote, or a hub id (`owner/name`);
            several make an ensemble, whose probabilities are averaged.
        device: `auto` (a GPU where there is one), or as torch names it.
        batch_size: slices at a time; None takes 16, on a CPU 4, which is as exact and a fifth faster: more leave its
            caches.
        tta: average over the eight mirrors and quarter turns of every slice; takes eight times as long.

    Attributes:
        metadata: the first checkpoint's, see `checkpoint.CheckpointMetadata`.
        checkpoints: the files that were loaded.
        device: where the networks are.

    Raises:
        ValueError: no such device, or an ensemble whose networks know other classes, intensities or orientations.
        FileNotFoundError, CheckpointError: see `checkpoint.load_checkpoint`.
    """

    def __init__(
        self,
        checkpoint: str | Path | Sequence[str | Path],
        device: str = "auto",
        batch_size: int | None = None,
        tta: bool = False,
    ) -> None:
        given = [checkpoint] if isinstance(checkpoint, (str, Path)) else list(checkpoint)
        self.device, self.tta = choose_device(device), tta
        self.batch_size = (4 if self.device.type == "cpu" else 16) if batch_size is None else batch_size
        if not given or self.batch_size < 1:
            raise ValueError(f"{len(given)} checkpoints, batch_size={batch_size}; expected at least one of each")
        self.checkpoints = [find_checkpoint(one) for one in given]
        loaded = [load_checkpoint(path) for path in self.checkpoints]
        self.metadata = loaded[0][1]
        for path, (_, other) in zip(self.checkpoints[1:], loaded[1:], strict=True):
            for what in ("class_names", "intensity", "orientation"):
                ours, theirs = getattr(self.metadata, what), getattr(other, what)
                if ours != theirs:
                    raise ValueError(
                        f"{path} has {what} {theirs}, {self.checkpoints[0]} has {ours}; an ensemble needs networks "
                        "that were trained on the same prepared data"
                    )
        self.members = [Member(model.to(self.device), tuple(metadata.image_size)) for model, metadata in loaded]

    def __call__(
        self,
        image: "str | Path | np.ndarray | Volume | nibabel.spatialimages.SpatialImage | SimpleITK.Image",
        spacing_mm: Sequence[float] | None = None,
        slice_axis: str | None = None,
        probabilities: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> Segmentation:
        """Segment one scan.

        Args:
            image: path of any kind that `scans.read_image` takes; array (H, W), (D, H, W) or (T, D, H, W) in the
                image's own units; image of nibabel or SimpleITK; or `Volume`.
            spacing_mm: voxel size of D, H, W of an image that does not tell it.
            slice_axis: "x", "y" or "z", the axis as NIfTI counts them (W, H, D) to cut slices across; None finds the
                acquisition's through-plane axis.
            probabilities: keep them as well.
            progress: called with the slices done and their total after every batch; what it raises stops the work.

        Raises:
            UnreadableError: the file is damaged or no scan.
            ValueError: wrong arguments.
        """
        scan = as_volume(image, spacing_mm)
        if isinstance(image, np.ndarray) and image.ndim == 2:
            scan = replace(scan, stored_shape=image.shape[::-1])
        prepared = self.prepare(scan, slice_axis, probabilities)
        total = len(prepared.slices)

        def report(_: int) -> None:
            if progress is not None:
                progress(total - prepared.waiting, total)

        (segmentation,) = self.segment([prepared], report)
        return segmentation

    def prepare(
        self, scan: Volume, slice_axis: str | None = None, probabilities: bool = False, scaled: bool = False
    ) -> PreparedVolume:
        """Scale the intensities as in training and cut the slices; what a reading thread can do ahead.

        A cine's frames are scaled one by one, as training saw them.

        Args:
            scan: the scan.
            slice_axis, probabilities: as for a call.
            scaled: the intensities are a prepared data set's and stay as they are.

        Raises:
            ValueError: NaN or infinity in the image, or no such axis.
        """
        if slice_axis is not None:
            if slice_axis not in SLICE_AXES:
                raise ValueError(f"slice_axis={slice_axis!r}; expected one of {', '.join(sorted(SLICE_AXES))}")
            scan = replace(scan, slices_along=SLICE_AXES.index(slice_axis))
        turn = turn_to_network(scan, self.metadata.orientation)
        image = scan.array if scaled else self._scale(scan)
        return PreparedVolume(scan, image, turn, len(self.metadata.class_names) if probabilities else None)

    def segment(
        self, scans: Iterable[PreparedVolume], progress: Callable[[int], None] | None = None
    ) -> Iterator[Segmentation]:
        """Segment scan after scan, in their order; a batch may hold the end of one and the beginning of the next.

        Args:
            scans: from `prepare`; the next is taken only when the networks need its slices.
            progress: called with the number of slices of each batch that was done.
        """
        begun: deque[PreparedVolume] = deque()
        batch: list[tuple[PreparedVolume, int]] = []
        for prepared in scans:
            begun.append(prepared)
            for number in range(len(prepared.slices)):
                batch.append((prepared, number))
                if len(batch) == self.batch_size:
                    self._run(batch, progress)
                    batch.clear()
            del prepared  # not held while the next is waited for
            while begun and not begun[0].waiting:
                yield begun.popleft().finish(self.metadata.class_names)
        if batch:
            self._run(batch, progress)
            batch.clear()
        while begun:
            yield begun.popleft().finish(self.metadata.class_names)

    def _run(self, batch: Sequence[tuple[PreparedVolume, int]], progress: Callable[[int], None] | None) -> None:
        start = time.perf_counter()
        wanted = any(prepared.wants_probabilities for prepared, _ in batch)
        slices = [prepared.slices[number] for prepared, number in batch]
        try:
            answers = segment_slices(self.members, slices, self.tta, wanted)
        except torch.OutOfMemoryError as error:
            raise ValueError(
                f"{len(batch)} slices at a time do not fit into the memory of {self.device}; take fewer "
                f"(batch_size={max(1, len(batch) // 4)}, --batch-size)"
            ) from error
        seconds = (time.perf_counter() - start) / len(batch)
        for (prepared, number), answer in zip(batch, answers, strict=True):
            prepared.fill(number, *answer)
            prepared.network_seconds += seconds
        if progress is not None:
            progress(len(batch))

    def predict_case(self, case: Case) -> np.ndarray:
        """Segment the prepared image of a case: (D, H, W) uint8."""
        scan = self.as_trained(Volume(case.identifier, case.image[None], case.affine, case.spacing_mm))
        (segmentation,) = self.segment([self.prepare(scan, scaled=True)])
        return segmentation.labels[0]

    def as_trained(self, scan: Volume) -> Volume:
        """A scan of the training's own data set, to be sliced as its prepared arrays are, whatever its spacing says."""
        if scan.orientation is None or self.metadata.orientation is None:
            return replace(scan, slices_along=0)
        planes = [PLANES[code] for code in scan.orientation]
        return replace(scan, slices_along=planes.index(PLANES[self.metadata.orientation[0]]))

    def _scale(self, scan: Volume) -> np.ndarray:
        """Intensities as in training. What a window would make all but constant was scaled before, as TransUNet's."""
        rule, array = self.metadata.intensity, scan.array
        if rule["method"] == "window" and rule["high"] - rule["low"] > 10 and 0 <= array.min() < array.max() <= 1.0001:
            log.warning("%s: in 0..1 already and taken as it is, without the window of %s", _where(scan), rule)
            return array.astype(np.float32)
        try:
            frames = [normalise_intensity(frame, rule) for frame in array]
        except ValueError as error:
            raise UnreadableError(_where(scan), str(error)) from error
        return frames[0][None] if len(frames) == 1 else np.stack(frames)


def _where(scan: Volume) -> Path:
    return scan.source or Path(scan.name)


def choose_device(device: str) -> torch.device:
    """`auto` is the first of CUDA, MPS and CPU that is there; anything else is torch's own name.

    Raises:
        ValueError: no such device here.
    """
    if device == "auto":
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        return accelerator or torch.device("cpu")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {device!r} cannot be used here: {error}; `mamba-unet info` lists what can") from error
