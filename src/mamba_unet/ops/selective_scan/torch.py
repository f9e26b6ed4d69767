"""The selective scan on every device torch has: the chunked scan over groups of channels."""

import torch.nn.functional as F
from torch import Tensor

from mamba_unet.ops.checks import compute_dtype
from mamba_unet.ops.chunked_scan import chunked_scan
from mamba_unet.ops.selective_scan.inputs import Inputs


def selective_scan(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """See `mamba_unet.ops.selective_scan`."""
    u, delta, A, B, C, D, z, delta_bias, delta_softplus = inputs
    dtype = compute_dtype(u)
    u, delta, A, B, C = (tensor.to(dtype) for tensor in (u, delta, A, B, C))
    if delta_bias is not None:
        delta = delta + delta_bias.to(dtype).unsqueeze(-1)
    if delta_softplus:
        delta = F.softplus(delta)
    groups = (B.shape[1], -1)
    y, last_state = chunked_scan(
        u.unflatten(1, groups).permute(3, 0, 1, 2),  # (L, B, G, D / G)
        delta.unflatten(1, groups).permute(3, 0, 1, 2),
        A.unflatten(0, groups).transpose(1, 2),  # (G, N, D / G)
        B.permute(3, 0, 1, 2),
        C.permute(3, 0, 1, 2),
    )
    out = y.permute(1, 2, 3, 0).flatten(1, 2)  # (B, D, L)
    if D is not None:
        out = out + u * D.to(dtype).unsqueeze(-1)
    if z is not None:
        out = out * F.silu(z.to(dtype))
    return out, last_state.transpose(2, 3).flatten(1, 2)  # (B, D, N)
