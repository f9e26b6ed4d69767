"""The selective scan on a GPU: the kernels of the map scan, walking a map of one axis forwards only.

B batch, L length, D channels, N d_state, G groups of channels that share B and C.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from mamba_unet.ops.selective_scan.inputs import Inputs
from mamba_unet.ops.triton_scan import triton_scan


def selective_scan(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """See `mamba_unet.ops.selective_scan`."""
    u, delta, A, B, C, D, z, delta_bias, delta_softplus = inputs
    absent = u.new_zeros(u.shape[1])
    D = absent if D is None else D
    delta_bias = absent if delta_bias is None else delta_bias
    groups = B.shape[1]

    of_groups = zip(
        u.chunk(groups, 1),
        delta.chunk(groups, 1),
        B.unbind(1),
        C.unbind(1),
        A.chunk(groups),
        D.chunk(groups),
        delta_bias.chunk(groups),
        strict=True,
    )
    scans = [
        triton_scan(
            u_g.mT, *(x.mT.unsqueeze(2) for x in (delta_g, B_g, C_g)), A_g[None], D_g, bias_g[None], delta_softplus
        )
        for u_g, delta_g, B_g, C_g, A_g, D_g, bias_g in of_groups
    ]
    out = torch.cat([y.mT for y, _ in scans], dim=1)  # (B, D, L)
    if z is not None:
        out = out * F.silu(z.to(out.dtype))
    return out, torch.cat([last.squeeze(1) for _, last in scans], dim=1)
