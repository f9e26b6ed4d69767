"""The VSS block and a stage of them, channels-last: (B, H, W, C)."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mamba_unet.models.layers import DropPath
from mamba_unet.models.ss2d import SS2D


class VSSBlock(nn.Module):
    """x + DropPath(SS2D(LayerNorm(x))): (B, H, W, dim) -> the same. Source: Mamba-UNet, Figure 3."""

    def __init__(self, dim: int, d_state: int = 16, drop_path_rate: float = 0.0) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(dim)
        self.self_attention = SS2D(dim, d_state)  # the public checkpoints' name
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop_path(self.self_attention(self.ln_1(x)))


class VSSStage(nn.Module):
    """VSS blocks on one map, then a change of resolution: (B, H, W, dim) -> (B, H', W', C').

    Args:
        dim: channels of the blocks.
        d_state: the scan's state size.
        drop_path_rates: one rate per block; their number is the depth.
        downsample: PatchMerging after an encoder stage, if any.
        upsample: PatchExpand after a decoder stage, if any.
        use_checkpoint: recompute each block in the backward pass instead of keeping its activations.
    """

    def __init__(
        self,
        dim: int,
        d_state: int,
        drop_path_rates: Sequence[float],
        *,
        downsample: nn.Module | None = None,
        upsample: nn.Module | None = None,
        use_checkpoint: bool = False,
    ) -> None:
        super().__init__()
        self.use_checkpoint = use_checkpoint
        self.blocks = nn.ModuleList([VSSBlock(dim, d_state, rate) for rate in drop_path_rates])
        self.downsample = downsample or nn.Identity()
        self.upsample = upsample or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            if self.use_checkpoint and self.training:
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
        return self.upsample(self.downsample(x))
