"""The paths of a scan through a map: one for each axis, which goes along it fastest, the others in their order."""

from collections.abc import Sequence
from math import prod


def paths(shape: Sequence[int]) -> list[tuple[int, int]]:
    """The extent of each path's fastest axis and the positions between two neighbours along it, the last axis first.

    With these two, E and I, step s of a path stands at position (r // I * E + s % E) * I + r % I of the row-major map,
    where r = s // E.
    """
    return [(shape[axis], prod(shape[axis + 1 :])) for axis in reversed(range(len(shape)))]
