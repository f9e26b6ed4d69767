"""Swin-UNet: the U-shape of Mamba-UNet with Swin Transformer blocks in its stages, channels-last.

B batch, H W map, C channels, w window size, T = w * w tokens of a window, N number of windows.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mamba_unet.models.baselines.mlp import MLP
from mamba_unet.models.hub import HubModel
from mamba_unet.models.layers import DropPath
from mamba_unet.models.staged_unet import StagedUNet


class WindowAttention(nn.Module):
    """Multi-head attention within windows, with a learned bias per relative position: (B, N, T, C) -> the same.

    Source: Swin Transformer (arXiv 2103.14030), eq. 4.
    """

    def __init__(self, dim: int, num_heads: int, window_size: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * window_size - 1) ** 2, num_heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

        y, x = torch.meshgrid(torch.arange(window_size), torch.arange(window_size), indexing="ij")
        y, x = y.flatten(), x.flatten()
        dy, dx = y[:, None] - y + window_size - 1, x[:, None] - x + window_size - 1
        self.register_buffer("relative_position_index", dy * (2 * window_size - 1) + dx, persistent=False)  # (T, T)

    def forward(self, x: Tensor, allowed: Tensor | None) -> Tensor:
        """`allowed`: (N, T, T), which tokens of a window may look at which; None for all."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(3, 0, 1, 4, 2, 5)  # (B, N, heads, T, d)
        bias = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)  # (heads, T, T)
        if allowed is not None:
            bias = bias.masked_fill(~allowed[:, None], float("-inf"))  # (N, heads, T, T)
        bias = bias.to(q.dtype)
        if torch.compiler.is_exporting():  # ONNX knows attention of one batch axis only
            bias = bias.expand(*x.shape[:2], *bias.shape[-3:]).flatten(0, 1)
            q, k, v = (part.flatten(0, 1) for part in (q, k, v))
            attended = F.scaled_dot_product_attention(q, k, v, attn_mask=bias).unflatten(0, x.shape[:2])
        else:
            attended = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return self.proj(attended.transpose(2, 3).flatten(3))


def allowed_pairs(height: int, width: int, window: int, shift: tuple[int, int], device: torch.device) -> Tensor | None:
    """Which tokens may look at which within each window of a padded and cyclically shifted map.

    Only neighbours on the map itself may: not a token with one that the shift brought over from the other side, nor
    with padding.

    Args:
        height: of the map before padding.
        width: of the map before padding.
        window: w, to whose multiples the map is padded.
        shift: rows and columns by which the padded map is rolled up and left.

    Returns:
        bool (N, T, T), or None if every pair may.
    """
    known = isinstance(height, int) and isinstance(width, int)  # sizes that are open while exporting are not
    if known and shift == (0, 0) and height % window == 0 and width % window == 0:
        return None
    wrapped, padded = [], []
    for length, by in ((height, shift[0]), (width, shift[1])):
        full = length + -length % window
        position = rolled(torch.arange(full, device=device), by, 0)  # before the roll
        wrapped.append(position < by)
        padded.append(position >= length)
    region = 2 * wrapped[0][:, None] + 1 * wrapped[1]
    region = region.masked_fill(padded[0][:, None] | padded[1], 4)
    region = windows(region[None, ..., None], window)[0, ..., 0]  # (N, T)
    return region[:, :, None] == region[:, None]


def rolled(x: Tensor, by: int, axis: int) -> Tensor:
    """The axis begins at its element `by`, and what was before comes last. Unlike `Tensor.roll`, for open sizes too."""
    size = x.shape[axis]
    return torch.cat([x.narrow(axis, by, size - by), x.narrow(axis, 0, by)], dim=axis)


def windows(x: Tensor, window: int) -> Tensor:
    """(B, H, W, C) -> (B, N, T, C), H and W multiples of the window."""
    x = x.unflatten(2, (-1, window)).unflatten(1, (-1, window))  # (B, H/w, w, W/w, w, C)
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)


class SwinBlock(nn.Module):
    """Attention within windows, then a two-layer perceptron, each a residual branch: (B, H, W, dim) -> the same.

    A map that is no multiple of the window is padded, and padding is masked. Along an axis that one window covers
    nothing is shifted.

    Args:
        dim: channels.
        num_heads: attention heads.
        window_size: side of a window.
        shifted: shift the windows by half their size.
        drop_path_rate: stochastic depth.

    Source: Swin Transformer (arXiv 2103.14030), section 3.2.
    """

    def __init__(self, dim: int, num_heads: int, window_size: int, shifted: bool, drop_path_rate: float) -> None:
        super().__init__()
        self.window_size = window_size
        self.shift = window_size // 2 if shifted else 0
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, num_heads, window_size)
        self.drop_path = DropPath(drop_path_rate)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = MLP(dim, 4 * dim)

    def _shift(self, size: int) -> int:
        """Along an axis of this size: none where one window covers it."""
        if isinstance(size, int):
            return self.shift if size > self.window_size else 0
        return self.shift * torch.sym_min(1, torch.sym_max(0, size - self.window_size))  # known when it runs

    def attend(self, x: Tensor) -> Tensor:
        _, H, W, _ = x.shape
        w = self.window_size
        shift = (self._shift(H), self._shift(W))
        x = F.pad(x, (0, 0, 0, -W % w, 0, -H % w))
        padded_size = x.shape[1:3]
        x = windows(rolled(rolled(x, shift[0], 1), shift[1], 2), w)
        x = self.attn(x, allowed_pairs(H, W, w, shift, x.device))
        x = x.unflatten(2, (w, w)).unflatten(1, (padded_size[0] // w, -1))  # (B, H/w, W/w, w, w, C)
        x = x.transpose(2, 3).flatten(3, 4).flatten(1, 2)
        x = rolled(rolled(x, padded_size[0] - shift[0], 1), padded_size[1] - shift[1], 2)
        return x[:, :H, :W]

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attend(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class SwinUNet(StagedUNet, HubModel):
    """(B, in_channels, H, W) -> logits (B, num_classes, H, W), for any H and W.

    The image is padded to a multiple of 32 as in `StagedUNet`; windows are padded and masked within the blocks.

    Args:
        in_channels: image channels.
        num_classes: classes including background.
        depths: blocks per encoder stage; the decoder mirrors them.
        dims: channels per stage, each twice the one before.
        num_heads: attention heads per stage.
        window_size: side of the attention windows on the maps.
        drop_path_rate: stochastic depth of the deepest block, rising linearly from 0.
        use_checkpoint: gradient checkpointing: keep only each block's input while training.

    Raises:
        ValueError: depths, dims and num_heads do not fit together.

    State-dict names are those of the checkpoints released for Swin-Unet and Mamba-UNet, without their `swin_unet.`
    prefix and without the buffers `attn_mask` and `relative_position_index`, which follow from the sizes.
    Source: Swin-Unet (arXiv 2105.05537); 27,168,420 parameters at the default sizes, 3 channels, 4 classes.
    """

    def __init__(
        self,
        in_channels: int = 1,
        num_classes: int = 4,
        depths: Sequence[int] = (2, 2, 2, 2),
        dims: Sequence[int] = (96, 192, 384, 768),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        window_size: int = 7,
        drop_path_rate: float = 0.2,
        use_checkpoint: bool = False,
    ) -> None:
        if len(num_heads) != len(dims) or any(dim % heads for dim, heads in zip(dims, num_heads, strict=False)):
            raise ValueError(f"num_heads {tuple(num_heads)} must divide dims {tuple(dims)} one by one")

        def block(stage: int, position: int, rate: float) -> SwinBlock:
            return SwinBlock(dims[stage], num_heads[stage], window_size, position % 2 == 1, rate)

        super().__init__(in_channels, num_classes, depths, dims, drop_path_rate, block, use_checkpoint)
