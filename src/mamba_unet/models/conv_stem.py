"""Convolutions at full and half resolution, before the first stage of a staged U-Net and behind its last.

B batch, S image size (H, W or D, H, W), F0 F1 = FINE; maps here are channels-first, those of the stages channels-last.
The stem has three levels, see `Level`: the image's, the one between and the first stage's.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mamba_unet.models.layers import CONV, CONV_TRANSPOSE, GroupNorm
from mamba_unet.models.levels import Level

FINE = (16, 32)  # channels of level 0, full resolution, and level 1, half of it
GROUP = 4  # channels that are normalised together
BATCH_NORM = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


def _conv(in_channels: int, out_channels: int, kernel: Sequence[int], stride: Sequence[int], bias: bool) -> nn.Module:
    padding = tuple(size // 2 for size in kernel)
    return CONV[len(kernel)](in_channels, out_channels, tuple(kernel), tuple(stride), padding, bias=bias)


def _norm(channels: int, axes: int, group: bool) -> nn.Module:
    return GroupNorm(channels // GROUP, channels) if group else BATCH_NORM[axes](channels)


class ConvUnit(nn.Sequential):
    """Convolution, normalisation, leaky ReLU: (B, C, *S) -> (B, out, *S/stride).

    The normalisation is over the batch; with `group` it is within each image and knows nothing of the batch.
    """

    def __init__(self, in_channels: int, out_channels: int, level: Level, group: bool, into: bool = False) -> None:
        """`into` the level: from the one above, by its stride."""
        stride = level.stride if into else [1] * len(level.stride)
        super().__init__(
            _conv(in_channels, out_channels, level.kernel, stride, bias=False),
            _norm(out_channels, len(level.stride), group),
            nn.LeakyReLU(0.01),
        )


class ConvStem(nn.Module):
    """Image to the first stage in two steps: (B, in_channels, *S) -> (B, *S', dim), and the maps on the way.

    In place of one embedding of patches. Xiao et al. 2021 (arXiv 2106.14881) find that such a stem helps transformers
    to train; the maps serve `ConvHead` as skips.
    """

    def __init__(self, in_channels: int, dim: int, levels: Sequence[Level], group: bool = False) -> None:
        super().__init__()
        full, half = FINE
        self.level0 = nn.Sequential(
            ConvUnit(in_channels, full, levels[0], group), ConvUnit(full, full, levels[0], group)
        )
        self.level1 = nn.Sequential(
            ConvUnit(full, half, levels[1], group, into=True), ConvUnit(half, half, levels[1], group)
        )
        self.embed = _conv(half, dim, levels[2].kernel, levels[2].stride, bias=True)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        full = self.level0(x)  # (B, F0, *S)
        half = self.level1(full)  # (B, F1, *S/2), in a volume not along every axis
        return self.norm(self.embed(half).movedim(1, -1)), [full, half]


class ConvHead(nn.Module):
    """The last stage's map to logits in two steps: (B, *S', dim) -> (B, num_classes, *S).

    The last convolution sees a pixel's neighbours, as that of the U-Net of the paper's code does: of nine times as many
    weights, each moved by the optimiser as far as one alone, the logits follow the labels sooner. With `group` it is
    point-wise.
    """

    def __init__(self, dim: int, num_classes: int, levels: Sequence[Level], group: bool = False) -> None:
        super().__init__()
        full, half = FINE
        axes = len(levels[0].stride)
        self.up1 = CONV_TRANSPOSE[axes](dim, half, levels[2].stride, stride=levels[2].stride)
        self.level1 = nn.Sequential(ConvUnit(2 * half, half, levels[1], group), ConvUnit(half, half, levels[1], group))
        self.up0 = CONV_TRANSPOSE[axes](half, full, levels[1].stride, stride=levels[1].stride)
        self.level0 = nn.Sequential(ConvUnit(2 * full, full, levels[0], group), ConvUnit(full, full, levels[0], group))
        self.output = _conv(full, num_classes, [1] * axes if group else levels[0].kernel, [1] * axes, bias=True)

    def forward(self, x: Tensor, fine: Sequence[Tensor]) -> Tensor:
        """`fine`: the stem's maps at full and at half resolution."""
        full, half = fine
        x = self.level1(torch.cat([self.up1(x.movedim(-1, 1)), half], dim=1))
        x = self.level0(torch.cat([self.up0(x), full], dim=1))
        return self.output(x)
