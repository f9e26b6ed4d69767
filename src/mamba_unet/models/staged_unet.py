"""The U-shape that Mamba-UNet and Swin-Unet share: stages of blocks that keep a map's size, merging and expanding.

B batch, H W image size, C = dims[0]; a map of stage i is channels-last, (B, H/(4*2^i), W/(4*2^i), dims[i]).
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import islice, pairwise

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mamba_unet.models.conv_stem import FINE, ConvHead, ConvStem
from mamba_unet.models.decoder_stages import DecoderStage
from mamba_unet.models.layers import PatchEmbed, PatchExpand, PatchMerging
from mamba_unet.models.resolution import pad_to_multiple

PATCH_SIZE = 4


class Stage(nn.Module):
    """Blocks on one map, then a change of resolution: (B, H, W, C) -> (B, H', W', C').

    Args:
        blocks: each (B, H, W, C) -> the same.
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
    """(B, in_channels, H, W) -> logits (B, num_classes, H, W), for any H and W.

    An image whose sides are not multiples of `stride` (32 for four stages) is padded at its right and bottom by
    repeating the last column and row, and the logits are cropped back; no other size is changed.

    Args:
        in_channels: image channels.
        num_classes: classes including background.
        depths: blocks per encoder stage; the decoder mirrors them.
        dims: channels per stage, each twice the one before.
        drop_path_rate: stochastic depth of the deepest block, rising linearly from 0.
        block: makes a block from (stage, position in the stage, its drop path rate).
        use_checkpoint: gradient checkpointing: keep only each block's input while training.
        stem: "patch" embeds patches of 4 x 4 and enlarges the last map at once, as the papers do; "conv" comes to the
            first stage and back by convolutions at full and half resolution, with skips between them.

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
    ) -> None:
        super().__init__()
        if stem not in ("patch", "conv"):
            raise ValueError(f"unknown stem {stem!r}, expected patch or conv")
        if len(depths) != len(dims) or len(dims) < 2:
            raise ValueError(f"depths {tuple(depths)} and dims {tuple(dims)} must have the same length, at least 2")
        if any(wide != 2 * narrow for narrow, wide in pairwise(dims)):
            raise ValueError(f"each of dims must be twice the one before, got {tuple(dims)}")
        last = len(dims) - 1
        self.stride = PATCH_SIZE * 2**last
        self.in_channels, self.dims = in_channels, tuple(dims)

        deepest = max(sum(depths) - 1, 1)
        rates = iter([drop_path_rate * i / deepest for i in range(sum(depths))])
        stage_rates = [list(islice(rates, depth)) for depth in depths]

        def stage(i: int, **resample: nn.Module) -> Stage:
            blocks = [block(i, j, rate) for j, rate in enumerate(stage_rates[i])]
            return Stage(blocks, use_checkpoint=use_checkpoint, **resample)

        self.stem = ConvStem(in_channels, dims[0]) if stem == "conv" else None
        if self.stem is None:
            self.patch_embed = PatchEmbed(in_channels, dims[0], PATCH_SIZE)
        self.layers = nn.ModuleList([stage(i, downsample=PatchMerging(dims[i])) for i in range(last)] + [stage(last)])
        self.norm = nn.LayerNorm(dims[-1])

        expand = [PatchExpand(dims[i], dims[i - 1]) for i in range(last, 0, -1)]
        self.layers_up = nn.ModuleList(
            [expand[0]] + [stage(last - j, upsample=expand[j]) for j in range(1, last)] + [stage(0)]
        )
        self.concat_back_dim = nn.ModuleList(
            [nn.Identity()] + [nn.Linear(2 * dims[last - j], dims[last - j]) for j in range(1, last + 1)]
        )
        self.norm_up = nn.LayerNorm(dims[0])
        if self.stem is None:
            self.up = PatchExpand(dims[0], dims[0], scale=PATCH_SIZE)
            self.output = nn.Conv2d(dims[0], num_classes, kernel_size=1, bias=False)
        else:
            self.head = ConvHead(dims[0], num_classes)

        self.apply(_init_linear)

    def encode(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """First map -> the deepest map, and the input of every stage for the skips."""
        skips = []
        for layer in self.layers:
            skips.append(x)
            x = layer(x)
        return self.norm(x), skips

    def decode(self, x: Tensor, skips: list[Tensor]) -> Tensor:
        """Deepest map and skips -> (B, H/4, W/4, dims[0])."""
        x = self.layers_up[0](x)
        for j in range(1, len(self.layers_up)):
            x = self.concat_back_dim[j](torch.cat([x, skips[-1 - j]], dim=-1))
            x = self.layers_up[j](x)
        return self.norm_up(x)

    def decoder_stages(self) -> list[DecoderStage]:
        """What the blocks of each stage make, before it is enlarged; above them the head's map at half resolution."""
        last = len(self.dims) - 1
        fine = [] if self.stem is None else [DecoderStage(self.head.level1, FINE[1], (2, 2))]
        return fine + [
            DecoderStage(self.layers_up[last - i].downsample, self.dims[i], (PATCH_SIZE * 2**i,) * 2, True)
            for i in range(last)
        ]

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[1] != self.in_channels or 0 in x.shape[2:]:
            raise ValueError(
                f"expected images (B, {self.in_channels}, H, W) with H and W at least 1, got {tuple(x.shape)}"
            )
        H, W = x.shape[-2:]
        x = pad_to_multiple(x, self.stride)
        if self.stem is None:
            x = self.decode(*self.encode(self.patch_embed(x)))
            logits = self.output(self.up(x).permute(0, 3, 1, 2))
        else:
            x, fine = self.stem(x)
            logits = self.head(self.decode(*self.encode(x)), fine)
        return logits[..., :H, :W]


def _init_linear(module: nn.Module) -> None:
    """Linear layers start as Swin's and VMamba's do: truncated normal weights, zero bias."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
