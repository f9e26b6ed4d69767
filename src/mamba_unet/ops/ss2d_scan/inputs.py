"""What the four-direction scan is computed from, as every backend takes it.

B batch, H W image, K = 4 scan directions, D channels, N d_state, R rank of dt.
"""

from collections.abc import Callable
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from mamba_unet.ops.checks import check_shape, check_state_size, check_tensors

DIRECTIONS = 4


class Inputs(NamedTuple):
    """The arguments of `mamba_unet.ops.ss2d_scan`."""

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
        if u.ndim != 4 or min(u.shape[1:]) < 1:
            raise ValueError(f"u must have shape (B, H, W, D) with H, W and D at least 1, not {tuple(u.shape)}")
        *pixels, channels = u.shape
        if A.ndim != 3:
            raise ValueError(f"A must have shape (4, D, N), not {tuple(A.shape)}")
        state = A.shape[2]
        check_state_size(state)
        check_shape("A", A, (DIRECTIONS, channels, state), "(4, D, N)")
        if weight is None:
            check_shape("dt", self.dt, (*pixels, DIRECTIONS, channels), "(B, H, W, 4, D)")
        else:
            if weight.ndim != 3 or weight.shape[2] < 1:
                raise ValueError(f"dt_weight must have shape (4, D, R) with R at least 1, not {tuple(weight.shape)}")
            rank = weight.shape[2]
            check_shape("dt_weight", weight, (DIRECTIONS, channels, rank), "(4, D, R)")
            check_shape("dt", self.dt, (*pixels, DIRECTIONS, rank), "(B, H, W, 4, R), as there is a dt_weight,")
        for name, tensor in (("B", self.B), ("C", self.C)):
            check_shape(name, tensor, (*pixels, DIRECTIONS, state), "(B, H, W, 4, N)")
        check_shape("D", self.D, (channels,), "(D,)")
        check_shape("dt_bias", self.dt_bias, (DIRECTIONS, channels), "(4, D)")
        return self

    def map(self, function: Callable[[Tensor], Tensor]) -> "Inputs":
        """The inputs with a function applied to each tensor."""
        return Inputs(*(None if x is None else function(x) for x in self))

    def with_whole_dt(self) -> "Inputs":
        """The inputs with dt (B, H, W, 4, D) multiplied out, for backends that do not do so step by step."""
        if self.dt_weight is None:
            return self
        dt, weight = self.dt.movedim(3, 0).flatten(1, 3), self.dt_weight.to(self.dt.dtype).transpose(1, 2)
        device, in_autocast = dt.device.type, torch.is_autocast_enabled(dt.device.type)
        with torch.autocast(device, enabled=False) if in_autocast else nullcontext():
            dt = torch.matmul(dt, weight)  # one product per direction; (K, B * H * W, D)
        return self._replace(dt=dt.unflatten(1, self.u.shape[:3]).movedim(0, 3), dt_weight=None)
