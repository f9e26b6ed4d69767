"""What the scan of a map is computed from, as every backend takes it.

B batch, S the map's axes, K = 2 walks per axis, D channels, N d_state, R rank of dt.
"""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from mamba_unet.ops.checks import check_shape, check_state_size, check_tensors
from mamba_unet.ops.low_rank import multiply_out

MOST_AXES = 3


class Inputs(NamedTuple):
    """The arguments of `mamba_unet.ops.cross_scan`."""

    u: Tensor
    dt: Tensor
    B: Tensor
    C: Tensor
    A: Tensor
    D: Tensor
    dt_bias: Tensor
    dt_weight: Tensor | None = None

    def checked(self) -> "Inputs":
        """The inputs themselves, or a ValueError that says what does not fit."""
        check_tensors(self._asdict())
        u, A, weight = self.u, self.A, self.dt_weight
        if not 1 <= u.ndim - 2 <= MOST_AXES or min(u.shape[1:]) < 1:
            raise ValueError(
                f"u must have shape (B, *S, D) with one to {MOST_AXES} axes S, and all but B at least 1, "
                f"not {tuple(u.shape)}"
            )
        *positions, channels = u.shape
        walks = 2 * (u.ndim - 2)
        if A.ndim != 3:
            raise ValueError(f"A must have shape ({walks}, D, N), not {tuple(A.shape)}")
        state = A.shape[2]
        check_state_size(state)
        check_shape("A", A, (walks, channels, state), f"({walks}, D, N)")
        if weight is None:
            check_shape("dt", self.dt, (*positions, walks, channels), f"(B, *S, {walks}, D)")
        else:
            if weight.ndim != 3 or weight.shape[2] < 1:
                raise ValueError(
                    f"dt_weight must have shape ({walks}, D, R) with R at least 1, not {tuple(weight.shape)}"
                )
            rank = weight.shape[2]
            check_shape("dt_weight", weight, (walks, channels, rank), f"({walks}, D, R)")
            legend = f"(B, *S, {walks}, R), as there is a dt_weight,"
            check_shape("dt", self.dt, (*positions, walks, rank), legend)
        for name, tensor in (("B", self.B), ("C", self.C)):
            check_shape(name, tensor, (*positions, walks, state), f"(B, *S, {walks}, N)")
        check_shape("D", self.D, (channels,), "(D,)")
        check_shape("dt_bias", self.dt_bias, (walks, channels), f"({walks}, D)")
        return self

    def map(self, function: Callable[[Tensor], Tensor]) -> "Inputs":
        """The inputs with a function applied to each tensor."""
        return Inputs(*(None if x is None else function(x) for x in self))

    def with_whole_dt(self) -> "Inputs":
        """The inputs with dt (B, *S, K, D) multiplied out, for backends that know no other."""
        if self.dt_weight is None:
            return self
        return self._replace(dt=multiply_out(self.dt, self.dt_weight), dt_weight=None)
