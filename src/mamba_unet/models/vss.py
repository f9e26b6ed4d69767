"""The VSS block, channels-last: (B, *S, C), S being the map's two or three axes."""

from torch import Tensor, nn

from mamba_unet.models.control import DepthwiseMixer
from mamba_unet.models.layers import DropPath
from mamba_unet.models.ss2d import SS2D, GatedMixer


class VSSBlock(nn.Module):
    """x + DropPath(SS2D(LayerNorm(x))): (B, *S, dim) -> the same. Source: Mamba-UNet, Figure 3.

    Args:
        dim: channels.
        d_state: the scan's state size.
        drop_path_rate: probability of leaving the SS2D branch out while training.
        scan: "selective" for SS2D; "identity" or "dwconv" for the controls, whose SS2D has nothing, or a depth-wise
            convolution, where the scan was.
        spatial_dims: axes of the map, 2 or 3.

    Raises:
        ValueError: unknown scan.
    """

    def __init__(
        self,
        dim: int,
        d_state: int = 16,
        drop_path_rate: float = 0.0,
        scan: str = "selective",
        spatial_dims: int = 2,
    ) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(dim)
        self.self_attention = token_mixer(scan, dim, d_state, spatial_dims)  # the public checkpoints' name
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop_path(self.self_attention(self.ln_1(x)))


def token_mixer(scan: str, dim: int, d_state: int, spatial_dims: int) -> GatedMixer:
    """SS2D, or SS2D with its scan replaced."""
    match scan:
        case "selective":
            return SS2D(dim, d_state, spatial_dims=spatial_dims)
        case "identity":
            return GatedMixer(dim, spatial_dims=spatial_dims)
        case "dwconv":
            return DepthwiseMixer(dim, spatial_dims=spatial_dims)
    raise ValueError(f"unknown scan {scan!r}, expected selective, identity or dwconv")
