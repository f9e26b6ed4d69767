"""From an image to its segmentation, in the image's own geometry.

T frames (1 unless a cine), C channels, D H W array axes as stored; K classes. The networks see slices across one of D,
H, W, or patches.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from mamba_unet.data.case import Case
from mamba_unet.data.prepared import PreparedDataset
from mamba_unet.files import sha256
from mamba_unet.inference.fit import anatomy_misfits, image_misfits
from mamba_unet.inference.scores import run_tiles
from mamba_unet.inference.segmentation import Segmentation
from mamba_unet.models.checkpoint import CheckpointMetadata, find_checkpoint
from mamba_unet.models.layers import in_cpu_order
from mamba_unet.models.loading import load_checkpoint
from mamba_unet.views.preprocessing import Preprocessing
from mamba_unet.views.view import Tiles, View, on_grid
from mamba_unet.volumes.geometry import Turn
from mamba_unet.volumes.limits import require_memory
from mamba_unet.volumes.read import as_volume
from mamba_unet.volumes.volume import Volume

if TYPE_CHECKING:
    import nibabel
    import SimpleITK

log = logging.getLogger(__name__)


class PreparedVolume:
    """A volume on its way through the networks.

    Attributes:
        volume: the image as it was read.
        image: (T, C, D, H, W) float32, intensities prepared.
        turn: from the axes of the image to those of training.
        tiles: what the networks see, of each view that they have, and their answers so far.
        weights: share of the networks that see it so.
        misfits: in what it is unlike the images of the training.
        scaled: see `Segmentation`.
        network_seconds: the time in the networks.
        failure: why there is no answer; None where there is.
    """

    def __init__(
        self,
        volume: Volume,
        image: np.ndarray,
        turn: Turn,
        tiles: Sequence[Tiles],
        weights: Sequence[float] = (1,),
        misfits: Sequence[str] = (),
        scaled: bool = False,
    ) -> None:
        self.volume, self.image, self.turn, self.tiles, self.weights = volume, image, turn, tiles, weights
        self.misfits, self.scaled = list(misfits), scaled
        self.network_seconds = 0.0
        self.failure: Exception | None = None

    @property
    def waiting(self) -> int:
        """Tiles that the networks have not answered."""
        return sum(tiles.waiting for tiles in self.tiles)

    def finish(self, metadata: CheckpointMetadata) -> Segmentation:
        """The segmentation, once every tile is answered, by networks of these classes."""
        labels, scores = self.tiles[0].labels, self.tiles[0].scores
        if len(self.tiles) > 1:
            scores = sum(
                np.float32(weight) * tiles.scores for weight, tiles in zip(self.weights, self.tiles, strict=True)
            )
            labels = scores.argmax(axis=1).astype(np.uint8)
        spacing, slices = self.volume.told_mm, labels.shape[1]
        misfits = anatomy_misfits(metadata.seen, labels, metadata.class_names, spacing, slices)
        return Segmentation(
            volume=self.volume,
            labels=self.turn.undo(labels),
            image=self.image,
            class_names=metadata.class_names,
            slice_axis=self.turn.axes[0],
            probabilities=None if scores is None else self.turn.undo(scores),
            label_values=metadata.label_values,
            network_seconds=self.network_seconds,
            misfits=[*self.misfits, *misfits],
            scaled=self.scaled,
        )


class Predictor:
    """A trained network, or an ensemble of several, that segments new images in the images' own geometry.

    Everything the network needs to see an image as in training comes from the checkpoint. Safe to share between threads
    as long as one at a time uses it.

    Args:
        checkpoint: file or folder that `mamba-unet train` or `save_pretrained` wrote, an ONNX file of `mamba-unet
            export-model`, or a hub id (`hf:owner/name`); several make an ensemble, whose probabilities are averaged.
        device: `auto` (a GPU where there is one), or as torch names it.
        batch_size: tiles at a time; None takes 16 slices, on a CPU 4, or 2 patches, on a CPU 1.
        tta: average over eight symmetries of every tile, of slices mirrors and quarter turns, of patches mirrors along
            three axes; takes eight times as long.

    Attributes:
        metadata: the first checkpoint's, see `models.checkpoint.CheckpointMetadata`.
        preprocessing: how images are brought to the networks.
        checkpoints: the files that were loaded.
        hashes: of each what sha256 was when it was loaded.
        device: where the networks are.

    Raises:
        ValueError: no such device, or an ensemble whose networks know other classes or prepare images in another way.
        FileNotFoundError, CheckpointError: see `models.loading.load_checkpoint`.
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
        if not given or (batch_size is not None and batch_size < 1):
            raise ValueError(f"{len(given)} checkpoints, batch_size={batch_size}; expected at least one of each")
        self.checkpoints = [find_checkpoint(one) for one in given]
        loaded, self.hashes = [], []
        for path in self.checkpoints:
            network, digest = _load(path)
            loaded.append(network)
            self.hashes.append(digest)
        if device == "auto" and not all(_can_run_on(model, self.device) for model, _ in loaded):
            self.device = torch.device("cpu")
        self.metadata = loaded[0][1]
        self.preprocessing = Preprocessing.from_json(self.metadata.preprocessing)
        for path, (_, other) in zip(self.checkpoints[1:], loaded[1:], strict=True):
            if list(other.class_names) != list(self.metadata.class_names):
                raise ValueError(
                    f"{path} has class_names {other.class_names}, {self.checkpoints[0]} has "
                    f"{self.metadata.class_names}; an ensemble needs networks of the same classes"
                )
            theirs = Preprocessing.from_json(other.preprocessing)
            self.preprocessing.require_same(theirs, str(self.checkpoints[0]), str(path), ("intensity", "orientation"))
        on_cpu = self.device.type == "cpu"
        self.members = [in_cpu_order(model) if on_cpu else model.to(self.device) for model, _ in loaded]
        self._views: list[tuple[View, list[nn.Module]]] = []  # networks that see an image alike share its tiles
        for model, (_, metadata) in zip(self.members, loaded, strict=True):
            view = Preprocessing.from_json(metadata.preprocessing).view
            alike = next((members for other, members in self._views if other == view), None)
            alike.append(model) if alike is not None else self._views.append((view, [model]))
        self.batch_size = batch_size or min(view.at_a_time(on_cpu) for view, _ in self._views)

    def __call__(
        self,
        image: "str | Path | np.ndarray | Volume | nibabel.spatialimages.SpatialImage | SimpleITK.Image",
        spacing_mm: Sequence[float] | None = None,
        slice_axis: str | None = None,
        probabilities: bool = False,
        progress: Callable[[int, int], None] | None = None,
        channel_axis: int | None = None,
    ) -> Segmentation:
        """Segment one image.

        Args:
            image: path of any kind that `volumes.read.read_volume` takes; array (H, W), (D, H, W) or (T, D, H, W) in
                the image's own units; image of nibabel or SimpleITK; or `Volume`.
            spacing_mm: voxel size of D, H, W of an image that does not tell it.
            slice_axis: "x", "y" or "z", the axis as NIfTI counts them (W, H, D) to cut slices across; None finds the
                acquisition's through-plane axis.
            probabilities: keep them as well.
            progress: called with the tiles done and their total after every batch; what it raises stops the work.
            channel_axis: of an array with channels, which axis they are: -1 for (H, W, 3).

        Raises:
            UnreadableError: the file is damaged or no image, or has another number of channels than the network takes.
            ValueError: wrong arguments.
        """
        volume = as_volume(image, spacing_mm, channel_axis)
        prepared = self.prepare(volume, slice_axis, probabilities)
        total = prepared.waiting

        def report(_: int) -> None:
            if progress is not None:
                progress(total - prepared.waiting, total)

        (segmentation,) = self.segment([prepared], report)
        if segmentation.warning:
            log.warning("%s: %s", volume.where, segmentation.warning)
        return segmentation

    def prepare(
        self, volume: Volume, slice_axis: str | None = None, probabilities: bool = False, scaled: bool = False
    ) -> PreparedVolume:
        """Bring an image to the networks as in training; what a reading thread can do ahead.

        Args:
            volume: the image.
            slice_axis, probabilities: as for a call.
            scaled: the intensities are a prepared data set's and stay as they are.

        Raises:
            UnreadableError: NaN or infinity in the image, another number of channels than the network takes, or more
                memory wanted than may be taken.
            ValueError: no such axis, or networks that see this image turned in different ways.
        """
        volume = self.preprocessing.fit_channels(volume)
        for note in volume.notes:
            log.warning("%s: %s", volume.where, note)
        turn, *others = (replace(self.preprocessing, view=view).turn(volume, slice_axis) for view, _ in self._views)
        if any(other != turn for other in others):
            raise ValueError(
                f"{volume.where}: of this ensemble networks for slices and networks for volumes would see this image "
                "turned in different ways, because it is not sliced as in training; predict with one kind alone"
            )
        image = volume.array if scaled else self.preprocessing.scale(volume)
        turned, classes = turn.apply(image), len(self.metadata.class_names)
        keep = probabilities or len(self._views) > 1
        spacing_mm = volume.told_mm and tuple(volume.told_mm[axis] for axis in turn.axes)
        if spacing_mm is None and not scaled and any(view.spacing_mm for view, _ in self._views):
            sizes = " x ".join(f"{mm:g}" for mm in self._views[0][0].spacing_mm or ())
            log.warning("%s: its voxel size is unknown; it is taken to be the network's, %s mm", volume.where, sizes)
        for view, _ in self._views:
            grid = view.grid(turned.shape[-3:], spacing_mm)
            scores = classes * prod(turned.shape[-3:]) if keep else 0
            wanted = turned.shape[1] * prod(grid.target) * grid.changes + scores
            require_memory(volume.where, turned.itemsize * len(turned) * wanted)
        tiles = [
            view.tiles(on_grid(turned, spacing_mm, view), classes, keep, turned.shape[-3:]) for view, _ in self._views
        ]
        weights = [len(members) / len(self.members) for _, members in self._views]
        rules, view = self.preprocessing.intensity, self._views[0][0]
        stored = None if scaled or self.preprocessing.is_scaled(volume) else volume.array[0]
        keeps_pixels = view.spacing_mm is None and getattr(view, "fit", "crop") == "crop"
        misfits = image_misfits(self.metadata.seen, turned[0], stored, rules, spacing_mm, keeps_pixels)
        return PreparedVolume(volume, image, turn, tiles, weights, misfits, scaled)

    def segment(
        self,
        volumes: Iterable[PreparedVolume],
        progress: Callable[[int], None] | None = None,
        failed: Callable[[PreparedVolume, Exception], None] | None = None,
    ) -> Iterator[Segmentation]:
        """Segment volume after volume, in their order; a batch may hold the end of one and the beginning of the next.

        Args:
            volumes: from `prepare`; the next is taken only when the networks need its tiles.
            progress: called with the number of tiles of each batch that was done.
            failed: called with each volume that has no answer, and why; None raises it.

        Raises:
            ValueError, MemoryError: without `failed`, the first such reason.
        """
        for number, (_, members) in enumerate(self._views):  # a volume passes them one after another
            volumes = run_tiles(members, volumes, self.batch_size, self.tta, progress, number)
        for prepared in volumes:
            try:
                if prepared.failure is not None:
                    raise prepared.failure
                segmentation = prepared.finish(self.metadata)
            except (ValueError, MemoryError) as error:
                if failed is None:
                    raise
                failed(prepared, error)
                continue
            yield segmentation
            del segmentation  # not held while the next is waited for

    def require_data(self, prepared: PreparedDataset) -> None:
        """Refuse prepared data whose images or classes are not what the networks know.

        Raises:
            ValueError: other classes, channels or intensities.
        """
        if list(self.metadata.class_names) != prepared.class_names:
            raise ValueError(
                f"{self.checkpoints[0]} knows the classes {', '.join(self.metadata.class_names)}; "
                f"{prepared.folder} has {', '.join(prepared.class_names)}"
            )
        self.preprocessing.require_same(
            prepared.preprocessing(), str(self.checkpoints[0]), str(prepared.folder), ("intensity",)
        )

    def predict_case(self, case: Case) -> np.ndarray:
        """Segment the prepared image of a case: (D, H, W) uint8."""
        known = case.orientation is not None
        volume = Volume(case.identifier, case.image[None], case.affine, case.spacing_mm, directed=known)
        (segmentation,) = self.segment([self.prepare(self.preprocessing.as_trained(volume), scaled=True)])
        return segmentation.labels[0]


def _load(path: Path) -> tuple[tuple[nn.Module, CheckpointMetadata], str]:
    """A network and the hash of the file that it is from; again where another took its place meanwhile."""
    while True:
        digest = sha256([path])
        loaded = load_checkpoint(path)
        if sha256([path]) == digest:
            return loaded, digest


def _can_run_on(model: nn.Module, device: torch.device) -> bool:
    """A network of ours runs on every device; an ONNX file where onnxruntime does."""
    from mamba_unet.models.onnx_network import OnnxNetwork, can_run_on

    return not isinstance(model, OnnxNetwork) or can_run_on(device.type)


def choose_device(device: str) -> torch.device:
    """`auto` is the first of CUDA, MPS and CPU that is there; anything else is torch's own name.

    Raises:
        ValueError: no such device here.
    """
    if device == "auto":
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        return accelerator or torch.device("cpu")
    try:
        found = torch.zeros(1, device=device)
        found.item()  # `meta` has no numbers
        return found.device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {device!r} cannot be used here: {error}; `mamba-unet info` lists what can") from error
