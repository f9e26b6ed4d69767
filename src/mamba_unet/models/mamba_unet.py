"""Mamba-UNet: a U-Net whose encoder and decoder stages are VSS blocks.

B batch, H W image size, C = dims[0]; a map of stage i is channels-last, (B, H/(4*2^i), W/(4*2^i), dims[i]).
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mamba_unet.models.hub import HubModel
from mamba_unet.models.layers import PatchEmbed, PatchExpand, PatchMerging
from mamba_unet.models.vss import VSSStage

PATCH_SIZE = 4


class MambaUNet(nn.Module, HubModel):
    """(B, in_channels, H, W) -> logits (B, num_classes, H, W), for any H and W.

    An image whose sides are not multiples of `stride` (32 for four stages) is padded at its right and bottom by
    repeating the last column and row, and the logits are cropped back; no other size is changed.

    Args:
        in_channels: image channels; 1 for MRI and CT.
        num_classes: classes including background.
        depths: VSS blocks per encoder stage; the decoder mirrors them.
        dims: channels per stage, each twice the one before.
        d_state: size of the scan's hidden state.
        drop_path_rate: stochastic depth of the deepest block, rising linearly from 0.
        use_checkpoint: gradient checkpointing: keep only each block's input while training.

    Raises:
        ValueError: depths and dims do not fit together.

    State-dict names are those of the checkpoints released for Mamba-UNet, without their `mamba_unet.` prefix.
    Source: Mamba-UNet (arXiv 2402.05079), Figure 2; 19,121,664 parameters at the default sizes, 3 channels, 4 classes.
    """

    def __init__(
        self,
        in_channels: int = 1,
        num_classes: int = 4,
        depths: Sequence[int] = (2, 2, 2, 2),
        dims: Sequence[int] = (96, 192, 384, 768),
        d_state: int = 16,
        drop_path_rate: float = 0.2,
        use_checkpoint: bool = False,
    ) -> None:
        super().__init__()
        if len(depths) != len(dims) or len(dims) < 2:
            raise ValueError(f"depths {tuple(depths)} and dims {tuple(dims)} must have the same length, at least 2")
        if any(wide != 2 * narrow for narrow, wide in pairwise(dims)):
            raise ValueError(f"each of dims must be twice the one before, got {tuple(dims)}")
        last = len(dims) - 1
        self.stride = PATCH_SIZE * 2**last

        rates = torch.linspace(0, drop_path_rate, sum(depths), device="cpu").split(list(depths))
        stage_rates = [r.tolist() for r in rates]

        def stage(i: int, **resample: nn.Module) -> VSSStage:
            return VSSStage(dims[i], d_state, stage_rates[i], use_checkpoint=use_checkpoint, **resample)

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
        self.up = PatchExpand(dims[0], dims[0], scale=PATCH_SIZE)
        self.output = nn.Conv2d(dims[0], num_classes, kernel_size=1, bias=False)

        self.apply(_init_linear)

    def encode(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Padded image -> the deepest map, and the input of every stage for the skips."""
        x = self.patch_embed(x)
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

    def forward(self, x: Tensor) -> Tensor:
        H, W = x.shape[-2:]
        x = F.pad(x, (0, -W % self.stride, 0, -H % self.stride), mode="replicate")
        x = self.decode(*self.encode(x))
        logits = self.output(self.up(x).permute(0, 3, 1, 2))
        return logits[..., :H, :W]


def _init_linear(module: nn.Module) -> None:
    """Linear layers start as Swin's and VMamba's do: truncated normal weights, zero bias."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
