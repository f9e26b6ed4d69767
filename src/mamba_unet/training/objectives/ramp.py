"""A weight that rises while training goes on."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Ramp:
    """weight * exp(-5 (1 - t / T)^2) when the part t of the training is done, and `weight` from T on.

    Args:
        weight: in the end.
        share: T, from 0 to 1; with 0 the weight is the same from the start.

    Source: Laine and Aila 2017 (arXiv 1610.02242), as the code of SSL4MIS and of Semi-Mamba-UNet has it.
    """

    weight: float
    share: float

    def __call__(self, done: float) -> float:
        if done >= self.share:
            return self.weight
        return self.weight * math.exp(-5 * (1 - done / self.share) ** 2)
