"""The U-Net of the paper's comparison.

B batch, H W image; the map of level i is (B, channels[i], H/2^i, W/2^i).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mamba_unet.models.decoder_stages import DecoderStage
from mamba_unet.models.hub import HubModel
from mamba_unet.models.resolution import pad_to_multiple


class ConvBlock(nn.Module):
    """Twice 3x3 convolution, batch norm and leaky ReLU, with dropout between: (B, C, H, W) -> (B, out, H, W)."""

    def __init__(self, in_channels: int, out_channels: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.conv_conv = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 3, padding=1),
            nn.BatchNorm2d(out_channels),
            nn.LeakyReLU(),
            nn.Dropout(dropout),
            nn.Conv2d(out_channels, out_channels, 3, padding=1),
            nn.BatchNorm2d(out_channels),
            nn.LeakyReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_conv(x)


class DownBlock(nn.Module):
    """Halve the map and convolve: (B, C, H, W) -> (B, out, H/2, W/2)."""

    def __init__(self, in_channels: int, out_channels: int, dropout: float) -> None:
        super().__init__()
        self.maxpool_conv = nn.Sequential(nn.MaxPool2d(2), ConvBlock(in_channels, out_channels, dropout))

    def forward(self, x: Tensor) -> Tensor:
        return self.maxpool_conv(x)


class UpBlock(nn.Module):
    """Double the map bilinearly, join the skip and convolve: (B, C, H, W), (B, out, 2H, 2W) -> (B, out, 2H, 2W)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1x1 = nn.Conv2d(in_channels, out_channels, 1)
        self.conv = ConvBlock(2 * out_channels, out_channels)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x = F.interpolate(self.conv1x1(x), scale_factor=2, mode="bilinear", align_corners=True)
        return self.conv(torch.cat([skip, x], dim=1))


class Encoder(nn.Module):
    """Image -> the maps of the five levels, from fine to coarse."""

    def __init__(self, in_channels: int, channels: Sequence[int], dropout: Sequence[float]) -> None:
        super().__init__()
        self.in_conv = ConvBlock(in_channels, channels[0], dropout[0])
        self.down1 = DownBlock(channels[0], channels[1], dropout[1])
        self.down2 = DownBlock(channels[1], channels[2], dropout[2])
        self.down3 = DownBlock(channels[2], channels[3], dropout[3])
        self.down4 = DownBlock(channels[3], channels[4], dropout[4])

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = [self.in_conv(x)]
        for down in (self.down1, self.down2, self.down3, self.down4):
            maps.append(down(maps[-1]))
        return maps


class Decoder(nn.Module):
    """The maps of the five levels -> logits."""

    def __init__(self, channels: Sequence[int], num_classes: int) -> None:
        super().__init__()
        self.up1 = UpBlock(channels[4], channels[3])
        self.up2 = UpBlock(channels[3], channels[2])
        self.up3 = UpBlock(channels[2], channels[1])
        self.up4 = UpBlock(channels[1], channels[0])
        self.out_conv = nn.Conv2d(channels[0], num_classes, 3, padding=1)

    def forward(self, maps: list[Tensor]) -> Tensor:
        *skips, x = maps
        for up in (self.up1, self.up2, self.up3, self.up4):
            x = up(x, skips.pop())
        return self.out_conv(x)


class UNet(nn.Module, HubModel):
    """(B, in_channels, H, W) -> logits (B, num_classes, H, W), for any H and W.

    An image is padded to multiples of 16 by repeating its last column and row, and the logits are cropped back.

    Args:
        in_channels: image channels.
        num_classes: classes including background.
        channels: of the five levels.
        dropout: of the five levels of the encoder; the decoder has none.

    Raises:
        ValueError: not five levels.

    State-dict names are those of the WSL4MIS and SSL4MIS repositories (HiLab-git), whose U-Net the paper compares with.
    Source: Ronneberger et al. 2015 (arXiv 1505.04597); 1,813,764 parameters at the default sizes, 1 channel, 4 classes.
    """

    def __init__(
        self,
        in_channels: int = 1,
        num_classes: int = 4,
        channels: Sequence[int] = (16, 32, 64, 128, 256),
        dropout: Sequence[float] = (0.05, 0.1, 0.2, 0.3, 0.5),
    ) -> None:
        super().__init__()
        if len(channels) != 5 or len(dropout) != 5:
            raise ValueError(f"expected five channels and five dropout rates, got {channels} and {dropout}")
        self.channels = tuple(channels)
        self.encoder = Encoder(in_channels, channels, dropout)
        self.decoder = Decoder(channels, num_classes)

    def decoder_stages(self) -> list[DecoderStage]:
        """The maps of the blocks below the last."""
        ups = (self.decoder.up3, self.decoder.up2, self.decoder.up1)
        return [DecoderStage(up, self.channels[i], (2**i, 2**i)) for i, up in enumerate(ups, start=1)]

    def forward(self, x: Tensor) -> Tensor:
        H, W = x.shape[-2:]
        return self.decoder(self.encoder(pad_to_multiple(x, 16)))[..., :H, :W]
