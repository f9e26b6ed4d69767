"""Layers between the VSS blocks: patch embedding, merging and expanding, all channels-last.

B batch, S the map's axes (H, W or D, H, W), C channels; a scale, stride or kernel has a number for each axis.
"""

from collections.abc import Sequence
from math import prod
from typing import TypeVar

import torch
from torch import Tensor, nn

CONV = {2: nn.Conv2d, 3: nn.Conv3d}
CONV_TRANSPOSE = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
CPU_ORDER = {4: torch.channels_last, 5: torch.channels_last_3d}  # by the axes of a convolution's weights

Network = TypeVar("Network", bound=nn.Module)


def in_cpu_order(network: Network) -> Network:
    """The same network, its convolutions' weights in the order of memory that a CPU computes fastest with.

    The maps between convolutions take the order of the weights. Names, values and what is saved stay the same; results
    differ by rounding. Timed in benchmarks/layout.py.
    """
    for parameter in network.parameters():
        if order := CPU_ORDER.get(parameter.ndim):
            parameter.data = parameter.data.contiguous(memory_format=order)
    return network


class GroupNorm(nn.GroupNorm):
    """torch's, that also takes groups of one value, which become the bias, and computes in float32 at the least.

    In bfloat16 the gradient of torch's own takes a CPU up to 20 times as long (torch 2.13, channels-last maps).
    """

    def forward(self, input: Tensor) -> Tensor:
        dtype = torch.promote_types(input.dtype, torch.float32)
        values = (input.to(dtype), self.num_groups, self.weight.to(dtype), self.bias.to(dtype), self.eps)
        return torch.group_norm(*values).to(input.dtype)  # without the check that F.group_norm puts before it


class PatchEmbed(nn.Module):
    """Cut an image into patches and embed each: (B, C, *S) -> (B, *S/p, dim)."""

    def __init__(self, in_channels: int, dim: int, patch_size: Sequence[int]) -> None:
        super().__init__()
        self.proj = CONV[len(patch_size)](in_channels, dim, kernel_size=tuple(patch_size), stride=tuple(patch_size))
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.proj(x).movedim(1, -1))


class PatchMerging(nn.Module):
    """Shrink the map by `scale` and double the channels: (B, *S, C) -> (B, *S/scale, 2C). S are multiples of scale.

    The positions that become one are joined with the first axis fastest, as the public checkpoints have them.
    Source: Swin Transformer, section 3.1.
    """

    def __init__(self, dim: int, scale: Sequence[int]) -> None:
        super().__init__()
        self.scale = tuple(scale)
        self.reduction = nn.Linear(prod(scale) * dim, 2 * dim, bias=False)
        self.norm = nn.LayerNorm(prod(scale) * dim)

    def forward(self, x: Tensor) -> Tensor:
        axes = len(self.scale)
        for axis in range(axes, 0, -1):
            x = x.unflatten(axis, (-1, self.scale[axis - 1]))  # at the end (B, S0, s0, S1, s1, ..., C)
        x = x.permute(0, *range(1, 2 * axes, 2), *range(2 * axes, 0, -2), 2 * axes + 1)  # (B, *S, ..., s1, s0, C)
        return self.reduction(self.norm(x.flatten(axes + 1)))


class PatchExpand(nn.Module):
    """Enlarge the map by `scale` through a linear layer: (B, *S, C) -> (B, *S * scale, out_dim).

    Source: Swin-Unet, section 3.4; `out_dim=C/2` between stages and `out_dim=C` at the end.
    """

    def __init__(self, dim: int, out_dim: int, scale: Sequence[int]) -> None:
        super().__init__()
        self.scale = tuple(scale)
        self.expand = nn.Linear(dim, prod(scale) * out_dim, bias=False)
        self.norm = nn.LayerNorm(out_dim)

    def forward(self, x: Tensor) -> Tensor:
        axes = len(self.scale)
        x = self.expand(x).unflatten(-1, (*self.scale, self.norm.normalized_shape[0]))  # (B, *S, s0, s1, ..., out_dim)
        x = x.permute(0, *(i for axis in range(1, axes + 1) for i in (axis, axes + axis)), 2 * axes + 1)
        for axis in range(1, axes + 1):
            x = x.flatten(axis, axis + 1)
        return self.norm(x)


class DropPath(nn.Module):
    """Drop a residual branch for whole samples with probability `rate` while training, scaling the others.

    Source: Huang et al. 2016, Deep networks with stochastic depth.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if self.rate == 0 or not self.training:
            return x
        keep = x.new_empty(x.shape[0], *[1] * (x.ndim - 1)).bernoulli_(1 - self.rate)
        return x * (keep / (1 - self.rate))

    def extra_repr(self) -> str:
        return f"rate={self.rate:.3f}"
