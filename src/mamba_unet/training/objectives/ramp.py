"""A weight that rises while training goes on."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Ramp:
    """weight * exp(-5 (1 - t / T)^2) in iteration t, and `weight` from iteration T on.

    Args:
        weight: in the end.
        iterations: T; with 0 the weight is the same from the start.

    Source: Laine and Aila 2017 (arXiv 1610.02242), as the code of SSL4MIS and of Semi-Mamba-UNet has it.
    """

    weight: float
    iterations: float

    def __call__(self, step: int) -> float:
        if step >= self.iterations:
            return self.weight
        return self.weight * math.exp(-5 * (1 - step / self.iterations) ** 2)
