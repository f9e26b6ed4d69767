"""A staged U-Net of the registry as nnU-Net builds, switches and trains a network.

B batch, H W patch, K classes; a scale is the size of an output relative to the patch: 1, 1/4, 1/8, ...
"""

from collections.abc import Sequence
from itertools import accumulate
from operator import mul
from typing import Any

from torch import Tensor, nn

from mamba_unet.models.registry import build_model
from mamba_unet.models.staged_unet import PATCH_SIZE, StagedUNet


class Heads(nn.ModuleList):
    """A head for each coarse map: (B, H, W, channels[i]) -> logits (B, K, H, W).

    nnU-Net switches deep supervision by the attribute of this name at a network's `decoder`.
    """

    def __init__(self, channels: Sequence[int], num_classes: int, deep_supervision: bool) -> None:
        super().__init__(nn.Linear(width, num_classes) for width in channels)
        self.deep_supervision = deep_supervision

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        return [head(x).permute(0, 3, 1, 2) for head, x in zip(self, maps, strict=True)]


class PlannedNetwork(nn.Module):
    """(B, input_channels, H, W) -> logits (B, K, H, W); under deep supervision a list of them, from fine to coarse.

    Every decoder stage but the last has a head for deep supervision: with four stages, the outputs are at 1, 1/4, 1/8
    and 1/16 of the patch. The heads are there whether it is on or not, so that a state dict fits in both cases.

    The names of the arguments are nnU-Net's, which also finds the scales of the outputs in the plans' `strides`: each
    is relative to the one before, and the last of them is not an output. Read in nnU-Net 2.8.1:
    `get_network_from_plans` and `nnUNetTrainer`.

    Args:
        input_channels: image channels.
        num_classes: classes including background; nnU-Net's segmentation heads.
        deep_supervision: the first value of `decoder.deep_supervision`.
        network: name in the registry, of a staged U-Net.
        size: of the network, see `registry.SIZES`.
        strides: as the plans have them; they must be the network's own.
        arguments: of the network's constructor.

    Raises:
        ValueError: the network is no staged U-Net, or the strides are not its own.
    """

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        deep_supervision: bool = False,
        *,
        network: str = "mamba_unet",
        size: str | None = "tiny",
        strides: Sequence[Sequence[int]] | None = None,
        **arguments: Any,
    ) -> None:
        super().__init__()
        self.network = build_model(network, input_channels, num_classes, size=size, **arguments)
        if not isinstance(self.network, StagedUNet):
            raise ValueError(
                f"{network} has no decoder stages for deep supervision; expected a Mamba-UNet or Swin-Unet"
            )
        if strides is not None and [list(stride) for stride in strides] != self.strides:
            raise ValueError(
                f"the plans' strides {strides} are not those of {network}; expected {self.strides}, see "
                "mamba_unet.nnunet.architecture"
            )
        channels = [merge.out_features for merge in self.network.concat_back_dim[1:]]
        self.decoder = Heads(channels[::-1], num_classes, deep_supervision)

    @property
    def strides(self) -> list[list[int]]:
        """Of the stages, each relative to the one before, as plans have them; the first is that of the image."""
        sides = [1, PATCH_SIZE] + [2] * (len(self.network.layers) - 1)
        return [[side, side] for side in sides]

    @property
    def scales(self) -> list[list[float]]:
        """Of the outputs under deep supervision, from fine to coarse."""
        return [[1 / side, 1 / side] for side in accumulate((side for side, _ in self.strides[:-1]), mul)]

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        logits, maps = self.network.logits_and_maps(x)
        if not self.decoder.deep_supervision:
            return logits
        outputs = [logits]
        for coarse, scale in zip(self.decoder(maps[-2::-1]), self.scales[1:], strict=True):
            # the maps are those of the padded image, and nnU-Net rounds so
            height, width = (round(side * share) for side, share in zip(x.shape[2:], scale, strict=True))
            outputs.append(coarse[..., :height, :width])
        return outputs


def architecture(network: str = "mamba_unet", size: str = "tiny", **arguments: Any) -> dict[str, Any]:
    """The entry `architecture` of a configuration in nnU-Net's plans.

    Args:
        network, size, arguments: as `PlannedNetwork` takes them; the values must be JSON's.
    """
    arguments = {"network": network, "size": size, **arguments}
    return {
        "network_class_name": f"{PlannedNetwork.__module__}.{PlannedNetwork.__qualname__}",
        "arch_kwargs": arguments | {"strides": PlannedNetwork(1, 2, **arguments).strides},
        "_kw_requires_import": [],
    }
