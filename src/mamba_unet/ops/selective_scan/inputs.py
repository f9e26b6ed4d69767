"""What the selective scan is computed from, as every backend takes it.

B batch, L length, D channels, N d_state, G groups of channels that share B and C.
"""

from typing import NamedTuple

from torch import Tensor

from mamba_unet.ops.checks import check_shape, check_state_size, check_tensors


class Inputs(NamedTuple):
    """The arguments of `mamba_unet.ops.selective_scan`; B and C are (B, G, N, L)."""

    u: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None = None
    z: Tensor | None = None
    delta_bias: Tensor | None = None
    delta_softplus: bool = False

    def checked(self) -> "Inputs":
        """The same with B and C in their long form, or a ValueError that says what does not fit."""
        *tensors, _ = self
        check_tensors(dict(zip(self._fields, tensors, strict=False)))
        u, A = self.u, self.A
        if u.ndim != 3 or u.shape[1] < 1 or u.shape[2] < 1:
            raise ValueError(f"u must have shape (B, D, L) with D and L at least 1, not {tuple(u.shape)}")
        batch, channels, length = u.shape
        if A.ndim != 2:
            raise ValueError(f"A must have shape (D, N), not {tuple(A.shape)}")
        state = A.shape[1]
        check_state_size(state)
        check_shape("A", A, (channels, state), "(D, N)")
        check_shape("delta", self.delta, (batch, channels, length), "(B, D, L)")
        B, C = _grouped("B", self.B), _grouped("C", self.C)
        groups = B.shape[1]
        if groups < 1 or channels % groups:
            raise ValueError(f"the number of groups G of B and C must divide D = {channels}, but G = {groups}")
        for name, tensor in (("B", B), ("C", C)):
            check_shape(name, tensor, (batch, groups, state, length), "(B, G, N, L)")
        check_shape("z", self.z, (batch, channels, length), "(B, D, L)")
        check_shape("D", self.D, (channels,), "(D,)")
        check_shape("delta_bias", self.delta_bias, (channels,), "(D,)")
        return self._replace(B=B, C=C)


def _grouped(name: str, tensor: Tensor) -> Tensor:
    if tensor.ndim not in (3, 4):
        raise ValueError(f"{name} must have shape (B, N, L) or (B, G, N, L), not {tuple(tensor.shape)}")
    return tensor if tensor.ndim == 4 else tensor.unsqueeze(1)
