"""From an image's own grid to another voxel size, slice by slice, so that the memory beside the result is a slice's.

C channels, D H W an image's axes, slices first; d h w those of the wanted grid. Both grids cover the same space: voxels
are volumes, not points, so voxel i of n reads around ((i + 1/2) m / n - 1/2) of m.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np

from mamba_unet.views.labels import IGNORE

ANISOTROPIC = 3  # a spacing so many times another is treated apart, as in nnU-Net (Isensee et al. 2021)

Shape = tuple[int, int, int]
Taps = list[tuple[int, float]]
Places = TypeVar("Places", int, np.ndarray)


@dataclass(frozen=True)
class Regrid:
    """From one grid to another.

    Attributes:
        source: (D, H, W).
        target: (d, h, w).
        apart: slices are too far apart to be mixed: along them the nearest one is taken, as nnU-Net does.
    """

    source: Shape
    target: Shape
    apart: bool = False

    @classmethod
    def to_spacing(cls, shape: Sequence[int], spacing_mm: Sequence[float], wanted_mm: Sequence[float]) -> "Regrid":
        """To voxels of about `wanted_mm`, an image of `shape` with voxels of `spacing_mm`; all of D, H, W."""
        target = tuple(
            max(1, round(side * have / want)) for side, have, want in zip(shape, spacing_mm, wanted_mm, strict=True)
        )
        apart = any(spacing[0] > ANISOTROPIC * max(spacing[1:]) for spacing in (spacing_mm, wanted_mm))
        return cls(tuple(shape), target, apart)

    @property
    def changes(self) -> bool:
        """Whether the two differ."""
        return self.source != self.target

    def image(self, image: np.ndarray) -> np.ndarray:
        """(C, D, H, W) float32 -> (C, d, h, w): cubic, averaged where it shrinks, within the values that were there."""
        if not self.changes:
            return image
        result = np.empty((len(image), *self.target), np.float32)
        for channel, into in zip(image, result, strict=True):
            low, high = channel.min(), channel.max()
            for number, taps in self._taps("nearest" if self.apart else "cubic"):
                mixed = _mixed([channel[place] for place, _ in taps], taps)
                np.clip(_in_plane(mixed, self.target[1:], "bicubic"), low, high, out=into[number])
        return result

    def label(self, label: np.ndarray) -> np.ndarray:
        """(D, H, W) -> (d, h, w) of the same type: the value whose share of a voxel, taken linearly, is largest.

        Voxels without ground truth have no vote, since they would outvote every scribble: a voxel is without ground
        truth where the nearest one of the source is.
        """
        if not self.changes:
            return label
        result = np.empty(self.target, label.dtype)
        rows, columns = (_nearest(np.arange(n), m, n) for m, n in zip(self.source[1:], self.target[1:], strict=True))
        for number, taps in self._taps("nearest" if self.apart else "linear"):
            planes = [np.asarray(label[place]) for place, _ in taps]
            values = np.unique(np.stack(planes))
            result[number] = values[0]
            if len(values) == 1:
                continue
            most = np.full(self.target[1:], -1.0, np.float32)
            for value in values[values != IGNORE]:
                share = _mixed([(plane == value).astype(np.float32) for plane in planes], taps)
                share = _in_plane(share, self.target[1:], "bilinear")
                result[number][share > most] = value
                np.maximum(most, share, out=most)
            if IGNORE in values:
                nearest = np.asarray(label[_nearest(number, self.source[0], self.target[0])])
                result[number][nearest[rows[:, None], columns] == IGNORE] = IGNORE
        return result

    def _taps(self, how: Literal["nearest", "linear", "cubic"]) -> Iterator[tuple[int, Taps]]:
        """Each slice of the target, with the slices of the source that it is made of and their weights."""
        source, target = self.source[0], self.target[0]
        for number in range(target):
            if how == "nearest" or source == target:
                yield number, [(_nearest(number, source, target), 1.0)]
                continue
            wide = max(1.0, source / target)  # where slices get fewer, more of them are averaged
            centre, reach = (number + 0.5) * source / target - 0.5, (1 if how == "linear" else 2) * wide
            places = np.arange(max(0, int(np.ceil(centre - reach))), min(source - 1, int(np.floor(centre + reach))) + 1)
            weights = _kernel(np.abs(places - centre) / wide, how)
            weights = weights / weights.sum()
            yield number, [(int(p), float(w)) for p, w in zip(places, weights, strict=True) if w]


def _nearest(number: Places, source: int, target: int) -> Places:
    """Which of `source` places lies nearest to a place, or an array of them, of `target`."""
    return (2 * number + 1) * source // (2 * target)


def _kernel(distance: np.ndarray, how: str) -> np.ndarray:
    """Linear, or the cubic convolution of Keys (1981) with a = -1/2, which torch's antialiased one is too."""
    if how == "linear":
        return np.maximum(0, 1 - distance)
    near = 1.5 * distance**3 - 2.5 * distance**2 + 1
    far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0))


def _mixed(planes: Sequence[np.ndarray], taps: Taps) -> np.ndarray:
    if len(planes) == 1:
        return np.asarray(planes[0], np.float32)
    return sum(np.float32(weight) * plane for plane, (_, weight) in zip(planes, taps, strict=True))


def _in_plane(plane: np.ndarray, size: tuple[int, int], mode: str) -> np.ndarray:
    """(H, W) float32 -> (h, w), averaged over a pixel's area where it shrinks."""
    import torch
    import torch.nn.functional as F

    if plane.shape == size:
        return plane
    tensor = torch.from_numpy(np.array(plane, dtype=np.float32, order="C"))[None, None]
    return F.interpolate(tensor, size, mode=mode, align_corners=False, antialias=True)[0, 0].numpy()


def back_taps(source: int, target: int) -> list[tuple[int, int, float]]:
    """For each of `target` slices, the two of `source` around it and the second one's share: linear, clamped."""
    taps = []
    for centre in np.clip((np.arange(target) + 0.5) * source / target - 0.5, 0, source - 1):
        low = int(centre)
        taps.append((low, low + (centre > low), float(centre - low)))
    return taps
