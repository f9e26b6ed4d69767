"""Patches of a volume through a network and back, in the memory of a slab.

Patches come layer by layer along the slices. A slice is finished when no later layer reaches it: then its scores are
brought to the grid of the result, its classes are taken, and its scores are let go. So the memory beside the labels is
that of the slices of one layer, whatever the length of the volume.

T frames, K classes, D H W the volume on the view's grid, d h w a patch; D' H' W' the grid of the result; V answers to a
patch, B patches at a time.
"""

from collections.abc import Sequence
from functools import cached_property
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from mamba_unet.views.regrid import back_taps
from mamba_unet.views.windows import cut, gaussian, overlap, starts

if TYPE_CHECKING:
    from torch import Tensor


class PatchTiles:
    """The patches of a volume as a network sees them, and its answers so far. `len()` is the number of patches.

    Args:
        array: (T, C, D, H, W) float32.
        size: (d, h, w).
        classes: K.
        keep_scores: also keep the probabilities, which takes K times the volume.
        shape: (D', H', W') of the result; None is the array's.

    Attributes:
        waiting: patches whose answers have not been put.
        labels: (T, D', H', W') uint8 class indices.
        scores: (T, K, D', H', W') float32 probabilities, or None where they are not kept.
    """

    def __init__(
        self,
        array: np.ndarray,
        size: Sequence[int],
        classes: int,
        keep_scores: bool = False,
        shape: Sequence[int] | None = None,
    ) -> None:
        self.array, self.size, self.classes = array, tuple(size), classes
        shape = array.shape[-3:] if shape is None else tuple(shape)
        self.labels = np.empty((len(array), *shape), np.uint8)
        self.scores = np.empty((len(array), classes, *shape), np.float32) if keep_scores else None
        self.waiting = len(self)
        self._open: dict[int, tuple[Tensor, Tensor]] = {}  # slice -> sum of weighted scores, of weights
        self._before: Tensor | None = None  # the slice that was finished last, (K, H', W')
        self._next = 0  # slice of the result that is to be settled next

    @cached_property
    def corners(self) -> list[tuple[int, ...]]:
        """Of the patches of a frame, layer by layer."""
        return list(product(*map(starts, self.array.shape[-3:], self.size)))

    @cached_property
    def _taps(self) -> list[tuple[int, int, float]]:
        return back_taps(self.array.shape[-3], self.labels.shape[1])

    @cached_property
    def _weights(self) -> np.ndarray:
        return gaussian(self.size)

    def __len__(self) -> int:
        return len(self.array) * len(self.corners)

    def __getitem__(self, number: int) -> np.ndarray:
        """(C, d, h, w)."""
        frame, place = divmod(number, len(self.corners))
        return cut(self.array[frame], self.corners[place], self.size, 0)

    def put(self, numbers: range, answers: "Tensor") -> None:
        """Take the answers to some patches.

        Args:
            numbers: of the patches, consecutive.
            answers: (V, B, K, d, h, w) logits; their softmax is averaged over V.
        """
        import torch

        weights = torch.from_numpy(self._weights).to(answers)
        for position, number in enumerate(numbers):
            frame, place = divmod(number, len(self.corners))
            corner = self.corners[place]
            if place and corner[0] != self.corners[place - 1][0]:
                self._finish(frame, corner[0])
            scores = answers[0, position].softmax(dim=0)
            for other in answers[1:, position]:
                scores += other.softmax(dim=0)
            if len(answers) > 1:
                scores /= len(answers)
            self._add(corner, scores, weights)
            if place == len(self.corners) - 1:
                self._finish(frame, self.array.shape[-3])
                self._before, self._next = None, 0
        self.waiting -= len(numbers)

    def _add(self, corner: tuple[int, ...], scores: "Tensor", weights: "Tensor") -> None:
        """Add the weighted scores (K, d, h, w) of a patch to the slices that it reaches."""
        depth, *sides = self.array.shape[-3:]
        slices, inner = overlap(corner[0], self.size[0], depth)
        (rows, h), (columns, w) = map(overlap, corner[1:], self.size[1:], sides)
        for plane, within in zip(range(depth)[slices], range(self.size[0])[inner], strict=True):
            if plane not in self._open:
                self._open[plane] = scores.new_zeros(self.classes, *sides), weights.new_zeros(sides)
            total, weight = self._open[plane]
            total[:, rows, columns] += scores[:, within, h, w] * weights[within, h, w]
            weight[rows, columns] += weights[within, h, w]

    def _finish(self, frame: int, end: int) -> None:
        """The slices below `end` get no more scores: bring them to the grid of the result."""
        import torch.nn.functional as F

        size = self.labels.shape[-2:]
        for plane in sorted(plane for plane in self._open if plane < end):
            total, weight = self._open.pop(plane)
            scores = total.div_(weight)
            if scores.shape[-2:] != size:
                scores = F.interpolate(scores[None], size, mode="bilinear", align_corners=False)[0]
            while self._next < len(self._taps) and self._taps[self._next][1] <= plane:
                low, _, share = self._taps[self._next]
                self._settle(frame, scores if low == plane else (1 - share) * self._before + share * scores)
            self._before = scores

    def _settle(self, frame: int, scores: "Tensor") -> None:
        """Keep the classes of the next slice of the result, and if wanted its scores (K, H', W')."""
        import torch

        # argmax takes 7 times as long
        self.labels[frame, self._next] = scores.max(dim=0).indices.to(torch.uint8).cpu().numpy()
        if self.scores is not None:
            self.scores[frame, :, self._next] = scores.cpu().numpy()
        self._next += 1
