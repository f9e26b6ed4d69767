"""The scan of a map on every device torch has: the chunked scan, with the walks side by side.

B batch, S the map's axes, L their product, K walks, D channels, N d_state.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from mamba_unet.ops.checks import compute_dtype
from mamba_unet.ops.chunked_scan import chunked_scan
from mamba_unet.ops.cross_scan.inputs import Inputs


def cross_scan(inputs: Inputs) -> Tensor:
    """See `mamba_unet.ops.cross_scan`."""
    dtype = compute_dtype(inputs.u)
    u, dt, B, C, A, D, dt_bias, _ = inputs.map(lambda x: x.to(dtype)).with_whole_dt()
    _, *shape, _ = u.shape
    last = len(shape)  # u's axis that walk 0 goes along

    positions = torch.arange(math.prod(shape), device=u.device).view(shape)
    forwards = torch.stack([positions.movedim(-1 - k, -1).flatten() for k in range(last)], dim=1)
    paths = torch.cat((forwards, forwards.flip(0)), dim=1)  # (L, K), the position of each step
    k = torch.arange(A.shape[0], device=u.device)

    def along_walks(x: Tensor) -> Tensor:
        """(B, *S, K, X) -> (L, B, K, X)"""
        return x.flatten(1, last)[:, paths, k].transpose(0, 1)

    y, _ = chunked_scan(
        along_walks(u.unsqueeze(-2).expand(*dt.shape)),
        F.softplus(along_walks(dt) + dt_bias),
        A.transpose(1, 2),
        along_walks(B),
        along_walks(C),
    )
    walked = [positions.view(positions.movedim(-1 - k, -1).shape).movedim(-1, -1 - k).flatten() for k in range(last)]
    there = torch.stack(walked, dim=1)  # when each walk comes to a position
    back = torch.cat((there, math.prod(shape) - 1 - there), dim=1)
    y = y.transpose(0, 1)[:, back, k].sum(2)  # (B, L, D)
    return y.view(u.shape) + u * D
