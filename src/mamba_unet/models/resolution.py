"""Fit images and learned grids to another resolution."""

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor


def pad_to_multiple(x: Tensor, multiple: int | Sequence[int]) -> Tensor:
    """Repeat the last of each axis S of (B, C, *S) until S are multiples of `multiple`, one number or one per axis."""
    axes = x.ndim - 2
    multiples = (multiple,) * axes if isinstance(multiple, int) else multiple
    missing = [(size + m - 1) // m * m - size for size, m in zip(x.shape[2:], multiples, strict=True)]
    return F.pad(x, [n for extra in reversed(missing) for n in (0, extra)], mode="replicate")


def resize_grid(grid: Tensor, height: int, width: int) -> Tensor:
    """Values learned on a square grid, (1, side * side, C), bicubically resized to (1, height * width, C).

    For position embeddings and tables of position biases; a grid of the wanted size is returned as it is.
    """
    side = math.isqrt(grid.shape[1])
    if (side, side) == (height, width):
        return grid
    grid = grid.unflatten(1, (side, side)).permute(0, 3, 1, 2)  # (1, C, side, side)
    return F.interpolate(grid, (height, width), mode="bicubic", align_corners=False).flatten(2).transpose(1, 2)
