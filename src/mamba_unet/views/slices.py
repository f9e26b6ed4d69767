"""The training augmentation of Mamba-UNet's recipe, as random parameters and one deterministic resampling.

The public code rotates a slice and then zooms it, each by nearest neighbour, and each loses pixels. Here the index maps
are composed first and the slice is read once.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Augmentation:
    """What is done to a slice, in this order.

    Attributes:
        quarter_turns: `np.rot90` so many times (counter-clockwise).
        flip_axis: `np.flip` along it (0 rows, 1 columns); None for no flip.
        angle_degrees: rotation about the centre, counter-clockwise; what comes from outside the slice is 0.
    """

    quarter_turns: int = 0
    flip_axis: int | None = None
    angle_degrees: float = 0.0


IDENTITY = Augmentation()


def sample_augmentation(rng: np.random.Generator) -> Augmentation:
    """Half the time quarter turns and a flip, else half the time a rotation by -20..20 whole degrees, else nothing.

    Source: the training code published with Mamba-UNet (ziyangwang007/Mamba-UNet, after SSL4MIS).
    """
    if rng.random() < 0.5:
        return Augmentation(quarter_turns=int(rng.integers(4)), flip_axis=int(rng.integers(2)))
    if rng.random() < 0.5:
        return Augmentation(angle_degrees=float(rng.integers(-20, 20, endpoint=True)))
    return IDENTITY


def resample_slice(
    image: np.ndarray,
    label: np.ndarray | None,
    size: tuple[int, int],
    augmentation: Augmentation | None = None,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Augment a slice and bring it to `size` in one nearest-neighbour resampling.

    Pixels are areas, not points: output pixel i of n reads input pixel floor((i + 1/2) m / n) of m, as
    `torch.nn.functional.interpolate(mode="nearest-exact")` does. At the slice's own size the identity, turns and flips
    are exact.

    Args:
        image: (H, W).
        label: (H, W) or None.
        size: (h, w) of the result.
        augmentation: None for resizing alone.

    Returns:
        image and label of shape (h, w), contiguous, in their own types.
    """
    augmentation = augmentation or IDENTITY
    turned = [_turn(np.asarray(array), augmentation) for array in (image, label) if array is not None]
    height, width = turned[0].shape
    rows, columns = _nearest(height, size[0]), _nearest(width, size[1])
    if augmentation.angle_degrees == 0:
        result = [array.take(rows, axis=0).take(columns, axis=1) for array in turned]
    else:
        y = (np.arange(size[0], dtype=np.float32) + 0.5) * (height / size[0]) - height / 2
        x = (np.arange(size[1], dtype=np.float32) + 0.5) * (width / size[1]) - width / 2
        angle = np.deg2rad(augmentation.angle_degrees)
        cosine, sine = np.float32(np.cos(angle)), np.float32(np.sin(angle))
        rows = np.floor((cosine * y)[:, None] + (sine * x + np.float32(height / 2))).astype(np.intp)
        columns = np.floor((-sine * y)[:, None] + (cosine * x + np.float32(width / 2))).astype(np.intp)
        inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        index = (rows * width + columns) * inside
        result = [np.where(inside, array.ravel().take(index), array.dtype.type(0)) for array in turned]
    return result[0], result[1] if label is not None else None


def _turn(array: np.ndarray, augmentation: Augmentation) -> np.ndarray:
    """A view of `array` (H, W), turned and flipped; nothing is copied."""
    array = np.rot90(array, augmentation.quarter_turns)
    return array if augmentation.flip_axis is None else np.flip(array, augmentation.flip_axis)


def _nearest(source: int, target: int) -> np.ndarray:
    """For each of `target` pixels the one of `source` pixels its centre lies in, in exact integer arithmetic."""
    return (2 * np.arange(target) + 1) * source // (2 * target)
