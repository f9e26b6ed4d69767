"""The selective scan as the Mamba paper writes it: discretise, then step through the sequence. The specification."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mamba_unet.ops.checks import compute_dtype
from mamba_unet.ops.selective_scan.inputs import Inputs


def selective_scan(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """See `mamba_unet.ops.selective_scan`. Holds every decay, input and state: O(B D L N)."""
    u, delta, A, B, C, D, z, delta_bias, delta_softplus = inputs
    dtype = compute_dtype(u)
    u, delta, A, B, C = (tensor.to(dtype) for tensor in (u, delta, A, B, C))
    if delta_bias is not None:
        delta = delta + delta_bias.to(dtype).unsqueeze(-1)
    if delta_softplus:
        delta = F.softplus(delta)
    channels_per_group = u.shape[1] // B.shape[1]
    B = B.repeat_interleave(channels_per_group, dim=1)  # (B, D, N, L)
    C = C.repeat_interleave(channels_per_group, dim=1)

    decay = torch.exp(delta.unsqueeze(2) * A.unsqueeze(-1))  # (B, D, N, L)
    drive = (delta * u).unsqueeze(2) * B
    h = torch.zeros_like(drive[..., 0])  # (B, D, N)
    y = []
    # unbind, not indexing: the gradient of x[..., t] is as large as x, which makes a backward pass quadratic in L
    for decay_t, drive_t, C_t in zip(decay.unbind(-1), drive.unbind(-1), C.unbind(-1), strict=True):
        h = decay_t * h + drive_t
        y.append((h * C_t).sum(-1))
    out = torch.stack(y, dim=-1)  # (B, D, L)
    if D is not None:
        out = out + u * D.to(dtype).unsqueeze(-1)
    if z is not None:
        out = out * F.silu(z.to(dtype))
    return out, h
