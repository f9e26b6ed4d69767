"""The four-direction scan on every device torch has: the chunked scan, with the directions side by side.

B batch, H W image, L = H * W, K = 4 scan directions, D channels, N d_state.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from mamba_unet.ops.checks import compute_dtype
from mamba_unet.ops.chunked_scan import chunked_scan
from mamba_unet.ops.ss2d_scan.inputs import Inputs


def ss2d_scan(inputs: Inputs) -> Tensor:
    """See `mamba_unet.ops.ss2d_scan`."""
    dtype = compute_dtype(inputs.u)
    u, dt, B, C, A, D, dt_bias, _ = inputs.map(lambda x: x.to(dtype)).with_whole_dt()
    batch, height, width, channels = u.shape
    directions = A.shape[0]

    rows = torch.arange(height * width, device=u.device).view(height, width)
    paths = torch.stack((rows.flatten(), rows.T.flatten(), rows.flatten().flip(0), rows.T.flatten().flip(0)), dim=1)
    k = torch.arange(directions, device=u.device)

    def along_paths(x: Tensor) -> Tensor:
        """(B, H, W, K, X) -> (L, B, K, X)"""
        return x.flatten(1, 2)[:, paths, k].transpose(0, 1)

    y, _ = chunked_scan(
        along_paths(u.unsqueeze(3).expand(-1, -1, -1, directions, -1)),
        F.softplus(along_paths(dt) + dt_bias),
        A.transpose(1, 2),
        along_paths(B),
        along_paths(C),
    )
    back = torch.argsort(paths, dim=0)  # where on its path each direction meets a pixel
    y = y.transpose(0, 1)[:, back, k].sum(2)  # (B, L, D)
    return y.view(batch, height, width, channels) + u * D
