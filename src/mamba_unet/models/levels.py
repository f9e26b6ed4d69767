"""By how much a network shrinks a map along each axis, and over how far its convolutions reach, level by level.

An image of two axes is halved along both at every level. A volume seldom has cubes for voxels: slices of cardiac MRI
lie 5 to 10 mm apart, their pixels 1 to 2 mm. There the rule of nnU-Net holds (Isensee et al., Nature Methods 2021,
supplement; `network_topology.py` of its code), so that a step in a map comes to mean about the same length along every
axis, and a few slices are not shrunk to one.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from math import prod

THICK_SLICES = (4.0, 1.0, 1.0)  # the spacing of volumes of which none is given: the first two halvings spare depth
LEAST = 4  # no axis is halved below this many voxels
UNLIMITED = 2**60


@dataclass(frozen=True)
class Level:
    """One resolution of a network.

    Attributes:
        stride: of each axis, 1 or 2, from the level above into this one; ones at the image's own level.
        kernel: of each axis, 1 or 3, of the convolutions within this level.
    """

    stride: tuple[int, ...]
    kernel: tuple[int, ...]


def scales(levels: Sequence[Level]) -> list[tuple[int, ...]]:
    """For each level, how many of the image's voxels one of its own spans along each axis."""
    strides = [level.stride for level in levels]
    return [tuple(map(prod, zip(*strides[: i + 1], strict=True))) for i in range(len(levels))]


def image_levels(count: int) -> list[Level]:
    """The levels of a network for images: both axes halved by each step."""
    return [Level((1, 1), (3, 3))] + [Level((2, 2), (3, 3))] * (count - 1)


def volume_levels(
    count: int, spacing: Sequence[float] | None = None, patch_size: Sequence[int] | None = None
) -> list[Level]:
    """The levels of a network for volumes, the image's own first.

    A step halves the axes whose spacing is less than twice the smallest, of those that keep at least 4 voxels; an axis
    that would be halved alone must keep 6. Where none may be halved, the map keeps its size. A kernel is 3 long along
    an axis once its spacing is less than twice the smallest, or once it is halved, and 1 until then.

    Args:
        count: how many levels.
        spacing: of D, H, W, in any unit; None is taken as slices four times as thick as pixels are wide.
        patch_size: of D, H, W, in voxels; None sets no limit.

    Raises:
        ValueError: not three positive numbers.
    """
    for name, value in (("spacing", spacing), ("patch_size", patch_size)):
        if value is not None and (len(value) != 3 or not all(number > 0 for number in value)):
            raise ValueError(f"{name} must be three positive numbers, of D, H and W, got {value}")
    return list(islice(_volume_levels(spacing or THICK_SLICES, patch_size), count))


def _volume_levels(spacing: Sequence[float], patch_size: Sequence[int] | None) -> Iterator[Level]:
    spacing = list(spacing)
    size = [UNLIMITED] * 3 if patch_size is None else list(patch_size)
    stride, kernel = [1] * 3, [1] * 3
    while True:
        halved = _axes_to_halve(spacing, size)
        for axis in range(3):
            if axis in halved or spacing[axis] < 2 * min(spacing):
                kernel[axis] = 3
        yield Level(tuple(stride), tuple(kernel))
        stride = [2 if axis in halved else 1 for axis in range(3)]
        spacing = [s * mm for s, mm in zip(stride, spacing, strict=True)]
        size = [-(-voxels // s) for s, voxels in zip(stride, size, strict=True)]


def _axes_to_halve(spacing: Sequence[float], size: Sequence[int]) -> list[int]:
    large_enough = [axis for axis in range(3) if size[axis] >= 2 * LEAST]
    finest = min((spacing[axis] for axis in large_enough), default=0)
    halved = [axis for axis in large_enough if spacing[axis] < 2 * finest]
    return [] if len(halved) == 1 and size[halved[0]] < 3 * LEAST else halved
