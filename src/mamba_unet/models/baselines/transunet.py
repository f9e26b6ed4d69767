"""TransUNet: a ResNet whose last map passes a Vision Transformer, and a convolutional decoder with three skips.

B batch, H W image, multiples of 16; h = H/16, w = W/16, C = hidden_size, L = h * w tokens; R = resnet_width.
"""

from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mamba_unet.models.baselines.mlp import MLP
from mamba_unet.models.decoder_stages import DecoderStage
from mamba_unet.models.hub import HubModel
from mamba_unet.models.layers import GroupNorm
from mamba_unet.models.resolution import pad_to_multiple, resize_grid

STRIDE = 16


class StdConv2d(nn.Conv2d):
    """Convolution without bias whose filters are brought to mean 0 and variance 1 before use.

    Source: Qiao et al. 2019, Weight standardization (arXiv 1903.10520).
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(self.weight, dim=(1, 2, 3), keepdim=True, correction=0)
        weight = (self.weight - mean) * torch.rsqrt(variance + 1e-5)
        return F.conv2d(x, weight, stride=self.stride, padding=self.padding)


class Bottleneck(nn.Module):
    """Residual unit with group norm: (B, C, H, W) -> (B, out, H/stride, W/stride)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        middle = out_channels // 4
        self.gn1 = nn.GroupNorm(32, middle, eps=1e-6)
        self.conv1 = StdConv2d(in_channels, middle, 1)
        self.gn2 = nn.GroupNorm(32, middle, eps=1e-6)
        self.conv2 = StdConv2d(middle, middle, 3, stride)
        self.gn3 = nn.GroupNorm(32, out_channels, eps=1e-6)
        self.conv3 = StdConv2d(middle, out_channels, 1)
        self.projects = in_channels != out_channels or stride != 1
        if self.projects:
            self.downsample = StdConv2d(in_channels, out_channels, 1, stride)
            self.gn_proj = GroupNorm(out_channels, out_channels)  # a small image has one value in each

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.gn_proj(self.downsample(x)) if self.projects else x
        y = F.relu(self.gn1(self.conv1(x)))
        y = F.relu(self.gn2(self.conv2(y)))
        y = self.gn3(self.conv3(y))
        return F.relu(shortcut + y)


class ResNet(nn.Module):
    """Image -> the map at 1/16, (B, 16R, h, w), and those at 1/2, 1/4 and 1/8 with R, 4R and 8R channels."""

    def __init__(self, in_channels: int, width: int, units: Sequence[int]) -> None:
        super().__init__()

        def block(in_channels: int, out_channels: int, units: int, stride: int) -> nn.Sequential:
            first = Bottleneck(in_channels, out_channels, stride)
            rest = [Bottleneck(out_channels, out_channels) for _ in range(units - 1)]
            return nn.Sequential(OrderedDict((f"unit{i}", unit) for i, unit in enumerate([first, *rest], start=1)))

        self.root = nn.Sequential(
            OrderedDict(
                conv=StdConv2d(in_channels, width, 7, stride=2),
                gn=nn.GroupNorm(32, width, eps=1e-6),
                relu=nn.ReLU(),
            )
        )
        self.body = nn.Sequential(
            OrderedDict(
                block1=block(width, 4 * width, units[0], stride=1),
                block2=block(4 * width, 8 * width, units[1], stride=2),
                block3=block(8 * width, 16 * width, units[2], stride=2),
            )
        )

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        half = self.root(x)
        quarter = self.body.block1(F.max_pool2d(half, 3, stride=2))  # unpadded: a row and a column are lost here ...
        eighth = self.body.block2(quarter)
        return self.body.block3(eighth), [half, F.pad(quarter, (0, 1, 0, 1)), eighth]  # ... and zero in the skip


class Embeddings(nn.Module):
    """Image -> embedded map (B, h, w, C) and the ResNet's skips.

    The position embedding is learned for one size of image and resized to the map at hand.
    """

    def __init__(self, in_channels: int, hidden_size: int, resnet: ResNet, tokens: int, dropout: float) -> None:
        super().__init__()
        self.position_embeddings = nn.Parameter(torch.zeros(1, tokens, hidden_size))
        self.hybrid_model = resnet
        self.patch_embeddings = nn.Conv2d(in_channels, hidden_size, 1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        x, skips = self.hybrid_model(x)
        x = self.patch_embeddings(x).permute(0, 2, 3, 1)  # (B, h, w, C)
        h, w = x.shape[1:3]
        return self.dropout(x + resize_grid(self.position_embeddings, h, w).unflatten(1, (h, w))), skips


class Attention(nn.Module):
    """Multi-head self-attention: (B, L, C) -> the same."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            linear(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (B, heads, L, d)
            for linear in (self.query, self.key, self.value)
        )
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class TransformerBlock(nn.Module):
    """Attention, then a perceptron, each a residual branch: (B, L, C) -> the same. Source: ViT (arXiv 2010.11929)."""

    def __init__(self, dim: int, num_heads: int, mlp_dim: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(dim, eps=1e-6)
        self.ffn_norm = nn.LayerNorm(dim, eps=1e-6)
        self.ffn = MLP(dim, mlp_dim, dropout)
        self.attn = Attention(dim, num_heads)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.attention_norm(x))
        return x + self.ffn(self.ffn_norm(x))


class Encoder(nn.Module):
    """A stack of transformer blocks and a norm: (B, L, C) -> the same."""

    def __init__(self, blocks: Sequence[TransformerBlock], dim: int) -> None:
        super().__init__()
        self.layer = nn.ModuleList(blocks)
        self.encoder_norm = nn.LayerNorm(dim, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layer:
            x = layer(x)
        return self.encoder_norm(x)


class Transformer(nn.Module):
    """Image -> encoded map (B, C, h, w) and the ResNet's skips."""

    def __init__(self, embeddings: Embeddings, encoder: Encoder) -> None:
        super().__init__()
        self.embeddings = embeddings
        self.encoder = encoder

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        x, skips = self.embeddings(x)
        h, w = x.shape[1:3]
        x = self.encoder(x.flatten(1, 2))  # (B, L, C)
        return x.transpose(1, 2).unflatten(2, (h, w)), skips


def conv_norm_relu(in_channels: int, out_channels: int) -> nn.Sequential:
    """3x3 convolution, batch norm, ReLU: (B, C, H, W) -> (B, out, H, W)."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False), nn.BatchNorm2d(out_channels), nn.ReLU()
    )


class DecoderBlock(nn.Module):
    """Double the map bilinearly, join the skip if any, convolve twice: (B, C, H, W) -> (B, out, 2H, 2W)."""

    def __init__(self, in_channels: int, skip_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = conv_norm_relu(in_channels + skip_channels, out_channels)
        self.conv2 = conv_norm_relu(out_channels, out_channels)

    def forward(self, x: Tensor, skip: Tensor | None) -> Tensor:
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
        if skip is not None:
            x = torch.cat([x, skip], dim=1)
        return self.conv2(self.conv1(x))


class Decoder(nn.Module):
    """Encoded map (B, C, h, w) and three skips -> (B, channels[-1], H, W)."""

    def __init__(self, hidden_size: int, channels: Sequence[int], skip_channels: Sequence[int]) -> None:
        super().__init__()
        self.conv_more = conv_norm_relu(hidden_size, channels[0])
        self.blocks = nn.ModuleList(
            DecoderBlock(channels[i], skip_channels[i], channels[i + 1]) for i in range(len(skip_channels))
        )

    def forward(self, x: Tensor, skips: Sequence[Tensor | None]) -> Tensor:
        x = self.conv_more(x)
        for block, skip in zip(self.blocks, skips, strict=True):
            x = block(x, skip)
        return x


class TransUNet(nn.Module, HubModel):
    """(B, in_channels, H, W) -> logits (B, num_classes, H, W), for any H and W.

    An image is padded to multiples of 16 by repeating its last column and row, and the logits are cropped back. The
    position embedding is resized to the image.

    Args:
        in_channels: image channels. A single one is repeated to three, as in the published code: the first convolution
            standardises its filters, so that summing pretrained ones over colours would make another function.
        num_classes: classes including background.
        image_size: side of the square image whose position embedding is learned.
        hidden_size: channels of the transformer.
        depth: transformer blocks.
        num_heads: attention heads.
        mlp_dim: hidden units of the transformer's perceptrons.
        dropout: in the transformer, after the embedding and in the perceptrons.
        resnet_width: channels at 1/2, a multiple of 32.
        resnet_units: residual units at 1/4, 1/8 and 1/16.
        decoder_channels: at 1/16, 1/8, 1/4, 1/2 and full size.

    Raises:
        ValueError: image_size is no multiple of 16, num_heads does not divide hidden_size, or not three resnet_units
            and five decoder_channels.

    State-dict names are those of the published code.
    Source: TransUNet (arXiv 2102.04306), R50-ViT-B/16; 105,276,356 parameters at the default sizes, 4 classes.
    """

    def __init__(
        self,
        in_channels: int = 1,
        num_classes: int = 4,
        image_size: int = 224,
        hidden_size: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_dim: int = 3072,
        dropout: float = 0.1,
        resnet_width: int = 64,
        resnet_units: Sequence[int] = (3, 4, 9),
        decoder_channels: Sequence[int] = (512, 256, 128, 64, 16),
    ) -> None:
        super().__init__()
        if image_size % STRIDE or hidden_size % num_heads:
            raise ValueError(
                f"image_size must be a multiple of {STRIDE} and hidden_size of num_heads, "
                f"got {image_size}, {hidden_size} and {num_heads}"
            )
        if len(resnet_units) != 3 or len(decoder_channels) != 5:
            raise ValueError(f"expected 3 resnet_units and 5 decoder_channels, got {resnet_units}, {decoder_channels}")
        self.repeats_channel = in_channels == 1
        resnet = ResNet(3 if self.repeats_channel else in_channels, resnet_width, resnet_units)
        tokens = (image_size // STRIDE) ** 2
        blocks = [TransformerBlock(hidden_size, num_heads, mlp_dim, dropout) for _ in range(depth)]
        self.transformer = Transformer(
            Embeddings(16 * resnet_width, hidden_size, resnet, tokens, dropout), Encoder(blocks, hidden_size)
        )
        skip_channels = (8 * resnet_width, 4 * resnet_width, resnet_width, 0)
        self.decoder_channels = tuple(decoder_channels)
        self.decoder = Decoder(hidden_size, decoder_channels, skip_channels)
        self.segmentation_head = nn.Sequential(nn.Conv2d(decoder_channels[-1], num_classes, 3, padding=1))

    def decoder_stages(self) -> list[DecoderStage]:
        """The maps of the blocks below the last."""
        blocks, channels = self.decoder.blocks, self.decoder_channels
        return [DecoderStage(blocks[3 - i], channels[4 - i], (2**i, 2**i)) for i in range(1, 4)]

    def forward(self, x: Tensor) -> Tensor:
        H, W = x.shape[-2:]
        if self.repeats_channel:
            x = x.repeat(1, 3, 1, 1)
        x, (half, quarter, eighth) = self.transformer(pad_to_multiple(x, STRIDE))
        x = self.decoder(x, [eighth, quarter, half, None])
        return self.segmentation_head(x)[..., :H, :W]
