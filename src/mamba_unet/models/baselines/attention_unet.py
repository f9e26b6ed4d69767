"""Attention U-Net, MONAI's."""

from collections.abc import Sequence

from torch import Tensor, nn

from mamba_unet.models.decoder_stages import DecoderStage
from mamba_unet.models.hub import HubModel
from mamba_unet.models.resolution import pad_to_multiple


class AttentionUNet(nn.Module, HubModel):
    """(B, in_channels, H, W) -> logits (B, num_classes, H, W), for any H and W.

    An image is padded to multiples of 2^(levels - 1) by repeating its last column and row, and the logits are cropped
    back.

    Args:
        in_channels: image channels.
        num_classes: classes including background.
        channels: of each level; by default those of the `unet` beside it.
        dropout: of every convolution.

    Source: Oktay et al. 2018 (arXiv 1804.03999), as `monai.networks.nets.AttentionUnet` implements it; 1,987,468
    parameters at the default sizes, 1 channel, 4 classes.
    """

    def __init__(
        self,
        in_channels: int = 1,
        num_classes: int = 4,
        channels: Sequence[int] = (16, 32, 64, 128, 256),
        dropout: float = 0.0,
    ) -> None:
        from monai.networks.nets import AttentionUnet  # takes seconds to import

        super().__init__()
        levels_below = len(channels) - 1
        self.stride = 2**levels_below
        self.channels = tuple(channels)
        self.network = AttentionUnet(2, in_channels, num_classes, channels, [2] * levels_below, dropout=dropout)

    def decoder_stages(self) -> list[DecoderStage]:
        """The maps behind the attention gates, below the first level."""
        gated = [module.merge for module in self.network.modules() if hasattr(module, "merge")]  # from fine to coarse
        return [DecoderStage(gated[i], self.channels[i], (2**i, 2**i)) for i in range(1, len(gated))]

    def forward(self, x: Tensor) -> Tensor:
        H, W = x.shape[-2:]
        return self.network(pad_to_multiple(x, self.stride))[..., :H, :W]
