"""Layers between the VSS blocks: patch embedding, merging and expanding, all channels-last.

B batch, H W map, C channels.
"""

import torch
from torch import Tensor, nn


class PatchEmbed(nn.Module):
    """Cut an image into `patch_size` x `patch_size` patches and embed each: (B, C, H, W) -> (B, H/p, W/p, dim)."""

    def __init__(self, in_channels: int, dim: int, patch_size: int = 4) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, dim, kernel_size=patch_size, stride=patch_size)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.proj(x).permute(0, 2, 3, 1))


class PatchMerging(nn.Module):
    """Halve the map and double the channels: (B, H, W, C) -> (B, H/2, W/2, 2C). H and W are even.

    Source: Swin Transformer, section 3.1.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)
        self.norm = nn.LayerNorm(4 * dim)

    def forward(self, x: Tensor) -> Tensor:
        top, bottom = x[:, 0::2], x[:, 1::2]
        x = torch.cat([top[:, :, 0::2], bottom[:, :, 0::2], top[:, :, 1::2], bottom[:, :, 1::2]], dim=-1)
        return self.reduction(self.norm(x))


class PatchExpand(nn.Module):
    """Enlarge the map `scale` times by a linear layer: (B, H, W, C) -> (B, scale*H, scale*W, out_dim).

    Source: Swin-Unet, section 3.4; `scale=2, out_dim=C/2` between stages and `scale=4, out_dim=C` at the end.
    """

    def __init__(self, dim: int, out_dim: int, scale: int = 2) -> None:
        super().__init__()
        self.scale = scale
        self.expand = nn.Linear(dim, scale * scale * out_dim, bias=False)
        self.norm = nn.LayerNorm(out_dim)

    def forward(self, x: Tensor) -> Tensor:
        B, H, W, _ = x.shape
        s = self.scale
        x = self.expand(x).unflatten(-1, (s, s, self.norm.normalized_shape[0]))  # (B, H, W, s, s, out_dim)
        x = x.transpose(2, 3).reshape(B, H * s, W * s, x.shape[-1])
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
