"""The training augmentation of Mamba-UNet's recipe, as random parameters.

The public code rotates a slice and then zooms it, each by nearest neighbour, and each loses pixels. Here the index maps
are composed first and the slice is read once, see `resample.resample`.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Augmentation:
    """What is done to a slice, in this order.

    Attributes:
        quarter_turns: `np.rot90` so many times (counter-clockwise).
        flip_axis: `np.flip` along it (0 rows, 1 columns); None for no flip.
        angle_degrees: rotation about the centre, counter-clockwise.
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
