"""Fit images and learned grids to another resolution."""

import math

import torch.nn.functional as F
from torch import Tensor


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Repeat the last column and row of (B, C, H, W) until H and W are multiples of `multiple`."""
    return F.pad(x, (0, -x.shape[-1] % multiple, 0, -x.shape[-2] % multiple), mode="replicate")


def resize_grid(grid: Tensor, height: int, width: int) -> Tensor:
    """Values learned on a square grid, (1, side * side, C), bicubically resized to (1, height * width, C).

    For position embeddings and tables of position biases; a grid of the wanted size is returned as it is.
    """
    side = math.isqrt(grid.shape[1])
    if (side, side) == (height, width):
        return grid
    grid = grid.unflatten(1, (side, side)).permute(0, 3, 1, 2)  # (1, C, side, side)
    return F.interpolate(grid, (height, width), mode="bicubic", align_corners=False).flatten(2).transpose(1, 2)
