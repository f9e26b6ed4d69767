"""Windows of a fixed size that slide over an array: where they begin, what is in them, and how much each pixel counts.

Any number of axes; an array may have others before them.
"""

from collections.abc import Sequence
from functools import reduce

import numpy as np


def starts(side: int, wanted: int) -> list[int]:
    """Where windows of `wanted` pixels begin so that they cover `side` pixels, neighbours sharing half or more."""
    if side <= wanted:
        return [(side - wanted) // 2]
    count = -(-2 * (side - wanted) // wanted) + 1
    return [round(i * (side - wanted) / (count - 1)) for i in range(count)]


def overlap(start: int, wanted: int, side: int) -> tuple[slice, slice]:
    """What a window that begins at `start` and an axis of `side` pixels share: in the axis, and in the window."""
    low, high = max(start, 0), min(start + wanted, side)
    return slice(low, high), slice(low - start, high - start)


def cut(array: np.ndarray, corner: Sequence[int], size: Sequence[int], fill: float) -> np.ndarray:
    """The window of the last axes that begins at `corner`, filled where it reaches over the edge; contiguous."""
    lead = array.ndim - len(size)
    result = np.full((*array.shape[:lead], *size), fill, array.dtype)
    shared = [overlap(*one) for one in zip(corner, size, array.shape[lead:], strict=True)]
    result[(..., *(window for _, window in shared))] = array[(..., *(inside for inside, _ in shared))]
    return result


def gaussian(size: Sequence[int]) -> np.ndarray:
    """Weights of a window's pixels, at most 1: the middle, which sees most around it, counts most, as in nnU-Net."""
    parts = [np.exp(-0.5 * ((np.arange(n) - (n - 1) / 2) / (n / 8)) ** 2) for n in size]
    return np.maximum(reduce(np.multiply.outer, parts), 1e-3).astype(np.float32)


def place_window(
    sides: Sequence[int], size: Sequence[int], centre: Sequence[int] | None, rng: np.random.Generator
) -> tuple[int, ...]:
    """The corner of a window that is drawn anywhere it fits, or so that it holds `centre`.

    Where an axis is shorter than the window, the window reaches over one or both of its ends.
    """
    found = []
    for axis, (side, wanted) in enumerate(zip(sides, size, strict=True)):
        low, high = min(0, (side - wanted) // 2), max((side - wanted) // 2, side - wanted)
        place = int(rng.integers(low if side < wanted else 0, high, endpoint=True))
        if centre is not None and side >= wanted:
            place = int(np.clip(centre[axis] - rng.integers(wanted), 0, side - wanted))
        found.append(place)
    return tuple(found)
