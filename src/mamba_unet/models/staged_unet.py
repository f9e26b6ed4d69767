"""The U-shape that Mamba-UNet and Swin-Unet share: stages of blocks that keep a map's size, merging and expanding.

B batch, S image size (H, W or D, H, W), S_i the size of stage i, C channels; maps of the stages are channels-last,
(B, *S_i, dims[i]). In an image S_i is a quarter of S at stage 0, and half the one before at each further stage.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import islice, pairwise

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mamba_unet.models.conv_stem import FINE, ConvHead, ConvStem
from mamba_unet.models.decoder_stages import DecoderStage
from mamba_unet.models.layers import CONV, PatchEmbed, PatchExpand, PatchMerging
from mamba_unet.models.levels import Level, image_levels, scales
from mamba_unet.models.resolution import pad_to_multiple

STEMS = ("patch", "conv", "conv_group")
STEM_LEVELS = 2  # the image's own level and the next one, before that of the first stage


class Stage(nn.Module):
    """Blocks on one map, then a change of resolution: (B, *S, C) -> (B, *S', C').

    Args:
        blocks: each (B, *S, C) -> the same.
        downsample: PatchMerging after an encoder stage, if any.
        upsample: PatchExpand after a decoder stage, if any.
        use_checkpoint: recompute each block in the backward pass instead of keeping its activations.
    """

    def __init__(
        self,
        blocks: Iterable[nn.Module],
        *,
        downsample: nn.Module | None = None,
        upsample: nn.Module | None = None,
        use_checkpoint: bool = False,
    ) -> None:
        super().__init__()
        self.use_checkpoint = use_checkpoint
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample or nn.Identity()
        self.upsample = upsample or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            if self.use_checkpoint and self.training:
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
        return self.upsample(self.downsample(x))


class StagedUNet(nn.Module):
    """(B, in_channels, *S) -> logits (B, num_classes, *S), for any S.

    An image whose sides are not multiples of `stride` (32 for four stages) is padded at the end of each axis by
    repeating the last row, column or slice, and the logits are cropped back; no other size is changed.

    Args:
        in_channels: image channels.
        num_classes: classes including background.
        depths: blocks per encoder stage; the decoder mirrors them.
        dims: channels per stage, each twice the one before.
        drop_path_rate: stochastic depth of the deepest block, rising linearly from 0.
        block: makes a block from (stage, position in the stage, its drop path rate).
        use_checkpoint: gradient checkpointing: keep only each block's input while training.
        stem: "patch" embeds patches of 4 x 4 and enlarges the last map at once, as the papers do; "conv" comes to the
            first stage and back by convolutions at full and half resolution, with skips between them; "conv_group" is
            its first form, which learns more slowly: normalised within each image, with a point-wise last layer.
        levels: `number_of_levels(dims)` resolutions from the image's own to the deepest stage's; by default those of
            an image of two axes, each halved at every level.

    Raises:
        ValueError: depths and dims do not fit together, an unknown stem, or an image is of another shape.

    Source: Swin-Unet (arXiv 2105.05537), Figure 1; Mamba-UNet (arXiv 2402.05079), Figure 2.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        depths: Sequence[int],
        dims: Sequence[int],
        drop_path_rate: float,
        block: Callable[[int, int, float], nn.Module],
        use_checkpoint: bool = False,
        stem: str = "patch",
        levels: Sequence[Level] | None = None,
    ) -> None:
        super().__init__()
        if stem not in STEMS:
            raise ValueError(f"unknown stem {stem!r}, expected {', '.join(STEMS)}")
        if len(depths) != len(dims) or len(dims) < 2:
            raise ValueError(f"depths {tuple(depths)} and dims {tuple(dims)} must have the same length, at least 2")
        if any(wide != 2 * narrow for narrow, wide in pairwise(dims)):
            raise ValueError(f"each of dims must be twice the one before, got {tuple(dims)}")
        last = len(dims) - 1
        levels = image_levels(number_of_levels(dims)) if levels is None else levels
        self.scales = scales(levels)
        self.stride = self.scales[-1]
        self.in_channels, self.dims, self.spatial_dims = in_channels, tuple(dims), len(self.stride)
        patch_size = self.scales[STEM_LEVELS]
        merge = [level.stride for level in levels[STEM_LEVELS + 1 :]]  # behind stage i

        deepest = max(sum(depths) - 1, 1)
        rates = iter([drop_path_rate * i / deepest for i in range(sum(depths))])
        stage_rates = [list(islice(rates, depth)) for depth in depths]

        def stage(i: int, **resample: nn.Module) -> Stage:
            blocks = [block(i, j, rate) for j, rate in enumerate(stage_rates[i])]
            return Stage(blocks, use_checkpoint=use_checkpoint, **resample)

        self.stem_kind, group = stem, stem == "conv_group"
        self.stem = None if stem == "patch" else ConvStem(in_channels, dims[0], levels, group)
        if self.stem is None:
            self.patch_embed = PatchEmbed(in_channels, dims[0], patch_size)
        merged = [stage(i, downsample=PatchMerging(dims[i], merge[i])) for i in range(last)]
        self.layers = nn.ModuleList([*merged, stage(last)])
        self.norm = nn.LayerNorm(dims[-1])

        expand = [PatchExpand(dims[i], dims[i - 1], merge[i - 1]) for i in range(last, 0, -1)]
        self.layers_up = nn.ModuleList(
            [expand[0]] + [stage(last - j, upsample=expand[j]) for j in range(1, last)] + [stage(0)]
        )
        self.concat_back_dim = nn.ModuleList(
            [nn.Identity()] + [nn.Linear(2 * dims[last - j], dims[last - j]) for j in range(1, last + 1)]
        )
        self.norm_up = nn.LayerNorm(dims[0])
        if self.stem is None:
            self.up = PatchExpand(dims[0], dims[0], patch_size)
            self.output = CONV[self.spatial_dims](dims[0], num_classes, kernel_size=1, bias=False)
        else:
            self.head = ConvHead(dims[0], num_classes, levels, group)

        self.apply(partial(_init_linear, by_fan_in=stem == "conv"))

    def encode(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """First map -> the deepest map, and the input of every stage for the skips."""
        skips = []
        for layer in self.layers:
            skips.append(x)
            x = layer(x)
        return self.norm(x), skips

    def decode(self, x: Tensor, skips: list[Tensor]) -> Tensor:
        """Deepest map and skips -> (B, *S_0, dims[0])."""
        x = self.layers_up[0](x)
        for j in range(1, len(self.layers_up)):
            x = self.concat_back_dim[j](torch.cat([x, skips[-1 - j]], dim=-1))
            x = self.layers_up[j](x)
        return self.norm_up(x)

    def decoder_stages(self) -> list[DecoderStage]:
        """What the blocks of each stage make, before it is enlarged; above them the head's map at half resolution."""
        last = len(self.dims) - 1
        fine = [] if self.stem is None else [DecoderStage(self.head.level1, FINE[1], self.scales[1])]
        return fine + [
            DecoderStage(self.layers_up[last - i].downsample, self.dims[i], self.scales[STEM_LEVELS + i], True)
            for i in range(last)
        ]

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 2 + self.spatial_dims or x.shape[1] != self.in_channels or 0 in x.shape[2:]:
            what, sides = ("images", "H, W") if self.spatial_dims == 2 else ("volumes", "D, H, W")
            raise ValueError(
                f"expected {what} (B, {self.in_channels}, {sides}) with {sides} at least 1, got {tuple(x.shape)}"
            )
        size = x.shape[2:]
        x = pad_to_multiple(x, self.stride)
        if self.stem is None:
            x = self.decode(*self.encode(self.patch_embed(x)))
            logits = self.output(self.up(x).movedim(-1, 1))
        else:
            x, fine = self.stem(x)
            logits = self.head(self.decode(*self.encode(x)), fine)
        return logits[(..., *map(slice, size))]


def number_of_levels(dims: Sequence[int]) -> int:
    """Resolutions of a network with one stage for each of dims."""
    return STEM_LEVELS + len(dims)


def _init_linear(module: nn.Module, by_fan_in: bool) -> None:
    """Linear layers start as Swin's and VMamba's do, with truncated normal weights, or by fan-in; with zero bias.

    By fan-in they keep the variance of what they are given (He et al. 2015, without the rectifier's factor). With 0.02
    the blocks of a small network begin at a hundredth of what passes by them, and its training with that.
    """
    if isinstance(module, nn.Linear):
        if by_fan_in:
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
        else:
            nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
