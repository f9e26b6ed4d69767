"""The VSS block, channels-last: (B, H, W, C)."""

from torch import Tensor, nn

from mamba_unet.models.control import DepthwiseMixer
from mamba_unet.models.layers import DropPath
from mamba_unet.models.ss2d import SS2D, GatedMixer


class VSSBlock(nn.Module):
    """x + DropPath(SS2D(LayerNorm(x))): (B, H, W, dim) -> the same. Source: Mamba-UNet, Figure 3.

    Args:
        dim: channels.
        d_state: the scan's state size.
        drop_path_rate: probability of leaving the SS2D branch out while training.
        scan: "selective" for SS2D; "identity" or "dwconv" for the controls, whose SS2D has nothing, or a depth-wise
            convolution, where the scan was.

    Raises:
        ValueError: unknown scan.
    """

    def __init__(self, dim: int, d_state: int = 16, drop_path_rate: float = 0.0, scan: str = "selective") -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(dim)
        self.self_attention = token_mixer(scan, dim, d_state)  # the public checkpoints' name
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop_path(self.self_attention(self.ln_1(x)))


def token_mixer(scan: str, dim: int, d_state: int) -> GatedMixer:
    """SS2D, or SS2D with its scan replaced."""
    match scan:
        case "selective":
            return SS2D(dim, d_state)
        case "identity":
            return GatedMixer(dim)
        case "dwconv":
            return DepthwiseMixer(dim)
    raise ValueError(f"unknown scan {scan!r}, expected selective, identity or dwconv")
