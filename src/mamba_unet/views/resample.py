"""Slices to another size, turned on the way.

C channels, H W a slice as stored, h w the wanted size.
"""

import numpy as np

from mamba_unet.views.augment import IDENTITY, Augmentation


def resample(
    array: np.ndarray, size: tuple[int, int], augmentation: Augmentation = IDENTITY, fill: float = 0
) -> np.ndarray:
    """Augment a slice and bring it to `size` in one nearest-neighbour resampling.

    Pixels are areas, not points: output pixel i of n reads input pixel floor((i + 1/2) m / n) of m, as
    `torch.nn.functional.interpolate(mode="nearest-exact")` does. At the slice's own size the identity, turns and flips
    are exact.

    Args:
        array: (..., H, W), an image or a label.
        size: (h, w) of the result.
        augmentation: how to turn it.
        fill: the value of what a rotation brings in from outside the slice.

    Returns:
        (..., h, w), contiguous, in its own type.
    """
    array = turn(np.asarray(array), augmentation)
    height, width = array.shape[-2:]
    if augmentation.angle_degrees == 0:
        return array.take(_nearest(height, size[0]), axis=-2).take(_nearest(width, size[1]), axis=-1)
    y = (np.arange(size[0], dtype=np.float32) + 0.5) * (height / size[0]) - height / 2
    x = (np.arange(size[1], dtype=np.float32) + 0.5) * (width / size[1]) - width / 2
    angle = np.deg2rad(augmentation.angle_degrees)
    cosine, sine = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    rows = np.floor((cosine * y)[:, None] + (sine * x + np.float32(height / 2))).astype(np.intp)
    columns = np.floor((-sine * y)[:, None] + (cosine * x + np.float32(width / 2))).astype(np.intp)
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    index = (rows * width + columns) * inside
    taken = array.reshape(*array.shape[:-2], height * width).take(index, axis=-1)
    return np.where(inside, taken, array.dtype.type(fill))


def turn(array: np.ndarray, augmentation: Augmentation) -> np.ndarray:
    """A view of `array` (..., H, W) with the quarter turns and the flip; nothing is copied."""
    array = np.rot90(array, augmentation.quarter_turns, axes=(-2, -1))
    return array if augmentation.flip_axis is None else np.flip(array, augmentation.flip_axis - 2)


def resize_smoothly(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(C, H, W) float32 -> (C, h, w): bilinear, and averaged over the area of a pixel where the image shrinks."""
    import torch
    import torch.nn.functional as F

    if image.shape[-2:] == tuple(size):
        return np.ascontiguousarray(image)
    tensor = torch.from_numpy(np.array(image, dtype=np.float32, copy=True, order="C"))[None]
    return F.interpolate(tensor, tuple(size), mode="bilinear", align_corners=False, antialias=True)[0].numpy()


def _nearest(source: int, target: int) -> np.ndarray:
    """For each of `target` pixels the one of `source` pixels its centre lies in, in exact integer arithmetic."""
    return (2 * np.arange(target) + 1) * source // (2 * target)
