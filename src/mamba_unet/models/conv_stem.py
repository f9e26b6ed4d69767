"""Convolutions at full and half resolution, before the first stage of a staged U-Net and behind its last.

B batch, H W image size, F0 F1 = FINE; maps here are channels-first, those of the stages channels-last.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

FINE = (16, 32)  # channels of level 0, full resolution, and level 1, half of it
GROUP = 4  # channels that are normalised together


class ConvUnit(nn.Sequential):
    """3 x 3 convolution, normalisation within each image, leaky ReLU: (B, C, H, W) -> (B, out, H/stride, W/stride).

    The normalisation knows nothing of the batch, so that small batches train as large ones do.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False),
            nn.GroupNorm(out_channels // GROUP, out_channels),
            nn.LeakyReLU(0.01),
        )


class ConvStem(nn.Module):
    """Image to the first stage in two steps: (B, in_channels, H, W) -> (B, H/4, W/4, dim), and the maps on the way.

    In place of one embedding of 4 x 4 patches. Xiao et al. 2021 (arXiv 2106.14881) find that such a stem helps
    transformers to train; the maps serve `ConvHead` as skips.
    """

    def __init__(self, in_channels: int, dim: int) -> None:
        super().__init__()
        full, half = FINE
        self.level0 = nn.Sequential(ConvUnit(in_channels, full), ConvUnit(full, full))
        self.level1 = nn.Sequential(ConvUnit(full, half, stride=2), ConvUnit(half, half))
        self.embed = nn.Conv2d(half, dim, 3, stride=2, padding=1)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        full = self.level0(x)  # (B, F0, H, W)
        half = self.level1(full)  # (B, F1, H/2, W/2)
        return self.norm(self.embed(half).permute(0, 2, 3, 1)), [full, half]


class ConvHead(nn.Module):
    """The last stage's map to logits in two steps: (B, H/4, W/4, dim) -> (B, num_classes, H, W)."""

    def __init__(self, dim: int, num_classes: int) -> None:
        super().__init__()
        full, half = FINE
        self.up1 = nn.ConvTranspose2d(dim, half, 2, stride=2)
        self.level1 = nn.Sequential(ConvUnit(2 * half, half), ConvUnit(half, half))
        self.up0 = nn.ConvTranspose2d(half, full, 2, stride=2)
        self.level0 = nn.Sequential(ConvUnit(2 * full, full), ConvUnit(full, full))
        self.output = nn.Conv2d(full, num_classes, 1)

    def forward(self, x: Tensor, fine: Sequence[Tensor]) -> Tensor:
        """`fine`: the stem's maps at full and at half resolution."""
        full, half = fine
        x = self.level1(torch.cat([self.up1(x.permute(0, 3, 1, 2)), half], dim=1))
        x = self.level0(torch.cat([self.up0(x), full], dim=1))
        return self.output(x)
