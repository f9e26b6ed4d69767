"""The selective scan by the compiled kernel, to which a sequence is a map of one axis, walked one way."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mamba_unet.ops.cpu_scan import cpu_scan
from mamba_unet.ops.selective_scan.inputs import Inputs


def selective_scan(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """See `mamba_unet.ops.selective_scan`. Computes in float32, one group after the other."""
    u, delta, A, B, C, D, z, delta_bias, delta_softplus = inputs
    groups = B.shape[1]
    u, delta, A, B, C = (tensor.float() for tensor in (u, delta, A, B, C))
    D = A.new_zeros(A.shape[0]) if D is None else D.float()
    delta_bias = A.new_zeros(A.shape[0]) if delta_bias is None else delta_bias.float()

    scanned = []
    for g, (u_g, delta_g, A_g, D_g, bias_g) in enumerate(
        zip(*(x.chunk(groups, axis) for x, axis in ((u, 1), (delta, 1), (A, 0), (D, 0), (delta_bias, 0))), strict=True)
    ):
        y, last = cpu_scan(
            u_g.transpose(1, 2),  # (B, L, D / G)
            delta_g.transpose(1, 2).unsqueeze(2),  # (B, L, 1, D / G)
            B[:, g].transpose(1, 2).unsqueeze(2),
            C[:, g].transpose(1, 2).unsqueeze(2),
            A_g.unsqueeze(0),
            D_g,
            bias_g.unsqueeze(0),
            delta_softplus,
        )
        scanned.append((y.transpose(1, 2), last.squeeze(1).transpose(1, 2)))
    out, last_state = (torch.cat(parts, dim=1) for parts in zip(*scanned, strict=True))
    if z is not None:
        out = out * F.silu(z.float())
    return out, last_state
