"""The control that mixes tokens by a fixed filter where SS2D scans; the one that does not mix them is `GatedMixer`.

Which parameters the controls have, and why, is in docs/decisions/0004-control.md.
"""

import torch
from torch import Tensor

from mamba_unet.models.layers import CONV
from mamba_unet.models.ss2d import GatedMixer

KERNEL_SIZE = {2: 15, 3: 7}  # by the number of axes


class DepthwiseMixer(GatedMixer):
    """SS2D with a depth-wise convolution in place of its scan: (B, *S, d_model) -> the same, for any S.

    A scan along every axis reaches every position of its map. A kernel of 15 x 15 spans the deepest map of an image of
    up to 256 x 256 (8 x 8) from any of its pixels, so that here, too, each logit depends on the whole image; and its
    225 weights per inner channel are about what the scan has (248 in the first stage, 584 in the last). In a volume
    7 x 7 x 7 does both: it spans a deepest map of 4 x 4 x 4, and the scan has 372 to 876 weights for its 343. It starts
    near the identity, as the scan does, whose skip D is 1.

    Args:
        d_model: channels in and out.
        kernel_size: of the convolution that replaces the scan (odd); by default 15 with two axes and 7 with three.
        spatial_dims: axes of the map, 2 or 3.
    """

    def __init__(self, d_model: int, kernel_size: int | None = None, spatial_dims: int = 2) -> None:
        super().__init__(d_model, spatial_dims=spatial_dims)
        d_inner = self.conv2d.in_channels
        kernel_size = KERNEL_SIZE[spatial_dims] if kernel_size is None else kernel_size
        middle = kernel_size // 2
        self.scan_conv = CONV[spatial_dims](d_inner, d_inner, kernel_size, padding=middle, groups=d_inner, bias=False)
        with torch.no_grad():
            self.scan_conv.weight[(..., *[middle] * spatial_dims)] += 1

    def scan(self, x: Tensor) -> Tensor:
        return self.scan_conv(x.movedim(-1, 1)).movedim(1, -1)
