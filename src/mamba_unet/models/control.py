"""The control that mixes tokens by a fixed filter where SS2D scans; the one that does not mix them is `GatedMixer`.

Which parameters the controls have, and why, is in docs/decisions/0004-control.md.
"""

import torch
from torch import Tensor, nn

from mamba_unet.models.ss2d import GatedMixer


class DepthwiseMixer(GatedMixer):
    """SS2D with a depth-wise convolution in place of its scan: (B, H, W, d_model) -> the same, for any H and W.

    A scan in four directions reaches every pixel of its map. A kernel of 15 x 15 spans the deepest map of an image of
    up to 256 x 256 (8 x 8) from any of its pixels, so that here, too, each logit depends on the whole image; and its
    225 weights per inner channel are about what the scan has (248 in the first stage, 584 in the last). It starts
    near the identity, as the scan does, whose skip D is 1.

    Args:
        d_model: channels in and out.
        kernel_size: of the convolution that replaces the scan (odd).
    """

    def __init__(self, d_model: int, kernel_size: int = 15) -> None:
        super().__init__(d_model)
        d_inner = self.conv2d.in_channels
        self.scan_conv = nn.Conv2d(d_inner, d_inner, kernel_size, padding=kernel_size // 2, groups=d_inner, bias=False)
        with torch.no_grad():
            self.scan_conv.weight[..., kernel_size // 2, kernel_size // 2] += 1

    def scan(self, x: Tensor) -> Tensor:
        return self.scan_conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
