"""The view of a 2D network: a case is seen slice by slice.

T frames, C channels, S slices with R rows and C columns as the network's training turned them; h w the network's image
size; K classes; B tiles at a time; V answers to one tile (networks of an ensemble, times test-time augmentations).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from mamba_unet.views.augment import IDENTITY, sample_augmentation
from mamba_unet.views.labels import IGNORE
from mamba_unet.views.nnunet_augment import change_intensities, sample_nnunet, warp
from mamba_unet.views.regrid import Regrid
from mamba_unet.views.resample import resample, resize_smoothly
from mamba_unet.views.windows import cut, gaussian, overlap, place_window, starts

if TYPE_CHECKING:
    from torch import Tensor

KIND = "slices"


@dataclass(frozen=True)
class Slices:
    """How slices are brought to the network's image size, and its answers back.

    Attributes:
        size: (h, w) of what the network sees.
        fit: `resize` shrinks or enlarges a slice to `size`, as the paper does; `crop` keeps its pixels: training draws
            a window of `size`, prediction slides it over the slice with half overlap.
        image: how `resize` resamples images: `nearest` neighbour, as the paper's code does, or `smooth`: bilinear, and
            averaged where the image shrinks. Labels are always nearest.
        outside: the label of what rotation or cropping brings in from outside the slice: `background`, as the paper's
            code has it, or `ignore`, which the loss leaves out.
        foreground: share of the windows of `crop` that are drawn around a foreground pixel, where there is one.
        spacing_mm: voxel size, in mm, that images are brought to first: of rows and columns, for slices stay the ones
            that were acquired; null leaves images on their own grid.

    A label that is shrunk and enlarged again by nearest neighbour loses detail, and a perfect network with it: see the
    table of ceilings in docs/views.md. `crop` has none.
    """

    size: tuple[int, int] = (224, 224)
    fit: Literal["resize", "crop"] = "resize"
    image: Literal["nearest", "smooth"] = "nearest"
    outside: Literal["background", "ignore"] = "background"
    foreground: float = 0.33
    spacing_mm: tuple[float, float] | None = None

    spatial_dims: ClassVar[int] = 2
    augmentations: ClassVar[Sequence[str]] = ("none", "paper", "nnunet")

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", tuple(int(side) for side in self.size))
        if self.spacing_mm is not None:
            object.__setattr__(self, "spacing_mm", tuple(float(mm) for mm in self.spacing_mm))
            if len(self.spacing_mm) != 2 or not min(self.spacing_mm) > 0:
                raise ValueError(f"view.spacing_mm must be two positive sizes in mm, got {list(self.spacing_mm)}")
        if len(self.size) != 2 or min(self.size) < 1:
            raise ValueError(f"view.size must be two positive numbers, height and width, got {list(self.size)}")
        for name, known in (
            ("fit", ("resize", "crop")),
            ("image", ("nearest", "smooth")),
            ("outside", ("background", "ignore")),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"view.{name} must be {' or '.join(known)}, got {getattr(self, name)!r}")
        if not 0 <= self.foreground <= 1:
            raise ValueError(f"view.foreground is a share from 0 to 1, got {self.foreground}")

    def to_json(self) -> dict[str, Any]:
        said = {"kind": KIND, **asdict(self), "size": list(self.size)}
        if said.pop("spacing_mm") is not None:  # earlier versions do not know it, and read what does without it
            said["spacing_mm"] = list(self.spacing_mm)
        return said

    def at_a_time(self, on_cpu: bool) -> int:
        """Tiles in a batch: on a CPU 4, which is as exact as 16 and a fifth faster: more leave its caches."""
        return 4 if on_cpu else 16

    def grid(self, shape: Sequence[int], spacing_mm: Sequence[float] | None) -> Regrid:
        """From the grid of a volume (S, R, C) with voxels of `spacing_mm` to the one that is cut into samples."""
        if self.spacing_mm is None or spacing_mm is None:
            return Regrid(tuple(shape), tuple(shape))
        return Regrid.to_spacing(shape, spacing_mm, (spacing_mm[0], *self.spacing_mm))

    def marks(self, label: np.ndarray) -> None:
        """Nothing of a label needs to be known before samples are drawn."""

    def count(self, shape: Sequence[int]) -> int:
        """Training samples in a case of shape (..., S, R, C)."""
        return shape[-3]

    def draw(
        self,
        image: np.ndarray,
        label: np.ndarray,
        index: int,
        rng: np.random.Generator,
        augment: str = "none",
        marks: None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """One training sample.

        Args:
            image: (C, S, R, C) float32.
            label: (S, R, C) class indices.
            index: which sample of the case, below `count`.
            rng: decides the augmentation and the window.
            augment: `paper`: turn it as the paper does; `nnunet`: as nnU-Net does; `none`.
            marks: what `marks` told of the label.

        Returns:
            image (C, h, w) and label (h, w), contiguous, in their own types.
        """
        if augment == "nnunet":
            return self._draw_as_nnunet(image[:, index], label[index], rng)
        augmentation = sample_augmentation(rng) if augment == "paper" else IDENTITY
        outside = IGNORE if self.outside == "ignore" else 0
        image, label = image[:, index], label[index]
        if self.fit == "crop":
            size = label.shape if augmentation.quarter_turns % 2 == 0 else label.shape[::-1]
            image, label = (resample(array, size, augmentation, fill) for array, fill in ((image, 0), (label, outside)))
            corner = self._window(label, rng)
            return cut(image, corner, self.size, 0), cut(label, corner, self.size, outside)
        if self.image == "nearest":
            return resample(image, self.size, augmentation), resample(label, self.size, augmentation, outside)
        size = image.shape[-2:] if augmentation.quarter_turns % 2 == 0 else image.shape[:-3:-1]
        turned = resample(image, size, augmentation)
        return resize_smoothly(turned, self.size), resample(label, self.size, augmentation, outside)

    def _draw_as_nnunet(
        self, image: np.ndarray, label: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """One training sample of a slice (C, R, C) and its label (R, C), read once where pixels keep their size."""
        how = sample_nnunet(rng, len(image), self.size)
        outside = IGNORE if self.outside == "ignore" else 0
        corner = (0, 0)
        if self.fit == "crop":
            corner = self._window(label, rng)
        else:
            image = resample(image, self.size) if self.image == "nearest" else resize_smoothly(image, self.size)
            label = resample(label, self.size)
        image, label = warp(image, label, corner, self.size, how, outside)
        return change_intensities(image, how), label

    def _window(self, label: np.ndarray, rng: np.random.Generator) -> tuple[int, ...]:
        """The corner of a window: anywhere it fits (centred where the slice is smaller), or around the foreground."""
        centre = None
        if rng.random() < self.foreground:
            marked = np.flatnonzero((label > 0) & (label != IGNORE))
            if marked.size:
                centre = np.unravel_index(marked[rng.integers(marked.size)], label.shape)
        return place_window(label.shape, self.size, centre, rng)

    def tiles(
        self, array: np.ndarray, classes: int, keep_scores: bool = False, shape: Sequence[int] | None = None
    ) -> "SliceTiles":
        """A volume on its way through a network.

        Args:
            array: (T, C, S, R, C) float32, as training saw it, on the view's grid.
            classes: K.
            keep_scores: also keep the probabilities of every class.
            shape: (S, R, C) of the results, where the volume's own grid is another one.
        """
        return (CroppedTiles if self.fit == "crop" else SliceTiles)(array, self, classes, keep_scores, shape)


class SliceTiles:
    """The slices of a volume as a network sees them, and its answers so far. `len()` is the number of tiles.

    Attributes:
        waiting: tiles whose answers have not been put.
        labels: (T, S, R, C) uint8 class indices.
        scores: (T, K, S, R, C) float32 probabilities, or None where they are not kept.
    """

    def __init__(
        self, array: np.ndarray, view: Slices, classes: int, keep_scores: bool, shape: Sequence[int] | None = None
    ) -> None:
        self.array, self.view = array, view
        shape = array.shape[-3:] if shape is None else tuple(shape)
        self.labels = np.empty((len(array), *shape), np.uint8)
        self.scores = np.empty((len(array), classes, *shape), np.float32) if keep_scores else None
        self.waiting = len(self)

    def __len__(self) -> int:
        return self.array.shape[0] * self.array.shape[2]

    def __getitem__(self, number: int) -> np.ndarray:
        """(C, h, w)."""
        image = self._slice(number)
        if self.view.image == "nearest":
            return resample(image, self.view.size)
        return resize_smoothly(image, self.view.size)

    def put(self, numbers: range, answers: "Tensor") -> None:
        """Take the answers to some tiles.

        The logits are brought back bilinearly before the class is taken, which keeps contours smoother than enlarging
        the label map. Where several answers are combined, it is their softmax at the slice's own size that is averaged.

        Args:
            numbers: of the tiles, consecutive.
            answers: (V, B, K, h, w) logits.
        """
        import torch.nn.functional as F

        size = tuple(self.labels.shape[-2:])
        combine = len(answers) > 1 or self.scores is not None
        score = 0.0
        for logits in answers:
            logits = F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
            score = score + logits.softmax(dim=1) if combine else logits
        self._settle(numbers, score / len(answers) if combine else score)
        self.waiting -= len(numbers)

    def _settle(self, slices: range, scores: "Tensor") -> None:
        """Keep the classes of some slices, and if wanted their scores (B, K, R, C)."""
        import torch
        import torch.nn.functional as F

        if scores.shape[-2:] != self.labels.shape[-2:]:
            scores = F.interpolate(scores, self.labels.shape[-2:], mode="bilinear", align_corners=False)
        labels = scores.max(dim=1).indices.to(torch.uint8).cpu().numpy()  # argmax takes 7 times as long
        kept = None if self.scores is None else scores.cpu().numpy()
        for position, number in enumerate(slices):
            frame, place = divmod(number, self.array.shape[2])
            self.labels[frame, place] = labels[position]
            if kept is not None:
                self.scores[frame, :, place] = kept[position]

    def _slice(self, number: int) -> np.ndarray:
        """(C, R, C)"""
        frame, place = divmod(number, self.array.shape[2])
        return self.array[frame, :, place]


class CroppedTiles(SliceTiles):
    """Windows of the network's size that slide over every slice with half overlap, at the slice's own pixels.

    The softmax of overlapping windows is averaged with Gaussian weights, as nnU-Net does, so that the middle of a
    window, which sees most around it, counts most. Windows come in order, and only slices in work are kept as scores.
    """

    @cached_property
    def corners(self) -> list[tuple[int, int]]:
        rows, columns = (
            starts(side, wanted) for side, wanted in zip(self.array.shape[-2:], self.view.size, strict=True)
        )
        return [(row, column) for row in rows for column in columns]

    def __len__(self) -> int:
        return super().__len__() * len(self.corners)

    def __getitem__(self, number: int) -> np.ndarray:
        place, window = divmod(number, len(self.corners))
        return cut(self._slice(place), self.corners[window], self.view.size, 0)

    def put(self, numbers: range, answers: "Tensor") -> None:
        import torch

        probabilities = answers.softmax(dim=2).mean(dim=0)  # (B, K, h, w)
        weights = torch.from_numpy(gaussian(self.view.size)).to(probabilities)
        for position, number in enumerate(numbers):
            place, window = divmod(number, len(self.corners))
            if window == 0:
                size = self.array.shape[-2:]
                self._sum = probabilities.new_zeros(probabilities.shape[1], *size)
                self._weight = probabilities.new_zeros(size)
            (rows, h), (columns, w) = map(overlap, self.corners[window], self.view.size, self.array.shape[-2:])
            self._sum[:, rows, columns] += probabilities[position][:, h, w] * weights[h, w]
            self._weight[rows, columns] += weights[h, w]
            if window == len(self.corners) - 1:
                self._settle(range(place, place + 1), (self._sum / self._weight)[None])
                del self._sum, self._weight
        self.waiting -= len(numbers)
