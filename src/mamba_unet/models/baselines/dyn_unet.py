"""nnU-Net's network for volumes, MONAI's."""

from collections.abc import Sequence

from torch import Tensor, nn

from mamba_unet.models.decoder_stages import DecoderStage
from mamba_unet.models.hub import HubModel
from mamba_unet.models.layers import GroupNorm
from mamba_unet.models.levels import scales, volume_levels
from mamba_unet.models.resolution import pad_to_multiple

MOST_LEVELS = 6
CHANNELS = (32, 64, 128, 256, 320, 320)


class DynUNet(nn.Module, HubModel):
    """(B, in_channels, D, H, W) -> logits (B, num_classes, D, H, W), for any D, H and W.

    Kernels and strides follow from spacing and patch size by nnU-Net's rule (`volume_levels`), with as many levels as
    the patch allows, up to six. A volume is padded to multiples of `stride` by repeating its last slice, row and
    column, and the logits are cropped back. There is no deep supervision.

    Args:
        in_channels: image channels.
        num_classes: classes including background.
        channels: of each level.
        spacing: of D, H, W, in any unit; None is taken as slices four times as thick as pixels are wide.
        patch_size: of D, H, W, in voxels, of the patches it will be trained on; None sets no limit.

    Source: Isensee et al. 2021 (Nature Methods 18), as `monai.networks.nets.DynUNet` implements it.
    """

    spatial_dims = 3

    def __init__(
        self,
        in_channels: int = 1,
        num_classes: int = 4,
        channels: Sequence[int] = CHANNELS,
        spacing: Sequence[float] | None = None,
        patch_size: Sequence[int] | None = None,
    ) -> None:
        from monai.networks import nets  # takes seconds to import

        super().__init__()
        levels = volume_levels(min(len(channels), MOST_LEVELS), spacing, patch_size)
        # a level that is as fine as the one above is left out; MONAI's network has three at the least
        levels = levels[:3] + [level for level in levels[3:] if max(level.stride) > 1]
        kernels = [level.kernel for level in levels[:-1]] + [(3, 3, 3)]  # the deepest has whole kernels, as nnU-Net's
        strides = [level.stride for level in levels]
        network = nets.DynUNet(
            3, in_channels, num_classes, kernels, strides, strides[1:], list(channels[: len(levels)])
        )
        self.channels, self.scales = tuple(channels[: len(levels)]), scales(levels)
        self.stride = self.scales[-1]
        # its parts, without the recursive module that holds all of them a second time
        self.input_block, self.downsamples = network.input_block, network.downsamples
        self.bottleneck, self.upsamples, self.output_block = network.bottleneck, network.upsamples, network.output_block
        for block in (self.input_block, *self.downsamples, self.bottleneck, *(up.conv_block for up in self.upsamples)):
            block.norm1, block.norm2 = (_instance_norm(norm.num_features) for norm in (block.norm1, block.norm2))

    def decoder_stages(self) -> list[DecoderStage]:
        """The maps of the blocks below the last."""
        ups = list(self.upsamples)[-2::-1]  # from fine to coarse
        return [DecoderStage(up, self.channels[i], self.scales[i]) for i, up in enumerate(ups, start=1)]

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[2:]
        x = pad_to_multiple(x, self.stride)
        skips = [self.input_block(x)]
        for downsample in self.downsamples:
            skips.append(downsample(skips[-1]))
        x = self.bottleneck(skips[-1])
        for upsample in self.upsamples:
            x = upsample(x, skips.pop())
        return self.output_block(x)[(..., *map(slice, size))]


def _instance_norm(channels: int) -> nn.Module:
    """Instance normalisation that also takes an empty batch and a map of one voxel: a group for every channel."""
    return GroupNorm(channels, channels)
