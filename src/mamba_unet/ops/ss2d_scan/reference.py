"""The four-direction scan as the papers draw it: unfold the image into four sequences, scan each, fold them back.

B batch, H W image, L = H * W, K = 4 scan directions, D channels, N d_state.
"""

import torch
from torch import Tensor

from mamba_unet.ops.checks import compute_dtype
from mamba_unet.ops.selective_scan.inputs import Inputs as SequenceInputs
from mamba_unet.ops.selective_scan.reference import selective_scan
from mamba_unet.ops.ss2d_scan.inputs import Inputs


def ss2d_scan(inputs: Inputs) -> Tensor:
    """See `mamba_unet.ops.ss2d_scan`."""
    dtype = compute_dtype(inputs.u)
    u, dt, B, C, A, D, dt_bias, _ = inputs.map(lambda x: x.to(dtype)).with_whole_dt()
    _, height, width, channels = u.shape
    directions = A.shape[0]

    def unfold(x: Tensor) -> Tensor:
        """(B, H, W, K, X) at the pixels -> (B, K, X, L) along the four paths."""
        rows = x.permute(0, 3, 4, 1, 2).flatten(3)
        columns = x.permute(0, 3, 4, 2, 1).flatten(3)
        return torch.stack((rows[:, 0], columns[:, 1], rows[:, 2].flip(-1), columns[:, 3].flip(-1)), dim=1)

    def fold(y: Tensor) -> Tensor:
        """(B, K, D, L) along the four paths -> (B, H, W, D), summed."""
        rows = y[:, 0] + y[:, 2].flip(-1)
        columns = y[:, 1] + y[:, 3].flip(-1)
        return rows.unflatten(-1, (height, width)).permute(0, 2, 3, 1) + columns.unflatten(-1, (width, height)).permute(
            0, 3, 2, 1
        )

    along_paths = SequenceInputs(
        u=unfold(u.unsqueeze(3).expand(-1, -1, -1, directions, -1)).flatten(1, 2),
        delta=unfold(dt).flatten(1, 2),
        A=A.flatten(0, 1),
        B=unfold(B),
        C=unfold(C),
        delta_bias=dt_bias.flatten(),
        delta_softplus=True,
    )
    y, _ = selective_scan(along_paths)
    return fold(y.unflatten(1, (directions, channels))) + u * D
