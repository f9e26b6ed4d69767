"""The scan of a map as the papers draw it: unfold the map into a sequence for each walk, scan each, fold them back.

B batch, S the map's axes, L their product, K walks, D channels, N d_state.
"""

import torch
from torch import Tensor

from mamba_unet.ops.checks import compute_dtype
from mamba_unet.ops.cross_scan.inputs import Inputs
from mamba_unet.ops.selective_scan.inputs import Inputs as SequenceInputs
from mamba_unet.ops.selective_scan.reference import selective_scan


def cross_scan(inputs: Inputs) -> Tensor:
    """See `mamba_unet.ops.cross_scan`."""
    dtype = compute_dtype(inputs.u)
    u, dt, B, C, A, D, dt_bias, _ = inputs.map(lambda x: x.to(dtype)).with_whole_dt()
    _, *shape, channels = u.shape
    walks = A.shape[0]
    axes = range(len(shape))

    def unfold(x: Tensor) -> Tensor:
        """(B, *S, K, X) at the positions -> (B, K, X, L) along the walks."""
        x = x.movedim((-2, -1), (1, 2))  # (B, K, X, *S)
        forwards = [x[:, k].movedim(-1 - k, -1).flatten(2) for k in axes]
        backwards = [x[:, len(shape) + k].movedim(-1 - k, -1).flatten(2).flip(-1) for k in axes]
        return torch.stack(forwards + backwards, dim=1)

    def fold(y: Tensor) -> Tensor:
        """(B, K, D, L) along the walks -> (B, *S, D), summed."""
        total = 0
        for k in axes:
            walked = y[:, k] + y[:, len(shape) + k].flip(-1)
            others = [size for axis, size in enumerate(shape) if axis != len(shape) - 1 - k]
            total = total + walked.unflatten(-1, (*others, shape[-1 - k])).movedim(-1, -1 - k)
        return total.movedim(1, -1)

    along_walks = SequenceInputs(
        u=unfold(u.unsqueeze(-2).expand(*dt.shape)).flatten(1, 2),
        delta=unfold(dt).flatten(1, 2),
        A=A.flatten(0, 1),
        B=unfold(B),
        C=unfold(C),
        delta_bias=dt_bias.flatten(),
        delta_softplus=True,
    )
    y, _ = selective_scan(along_walks)
    return fold(y.unflatten(1, (walks, channels))) + u * D
