"""A network of the registry as nnU-Net builds, switches and trains one.

B batch, S patch (H, W or D, H, W), K classes; a scale is the size of an output relative to the patch: 1, 1/2, 1/4, ...
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from mamba_unet.models.decoder_stages import DecoderStage, decoder_maps, decoder_stages
from mamba_unet.models.registry import BASELINE_SIZES, build_model


class Heads(nn.ModuleList):
    """A head for each coarse map of the decoder: (B, *S_i, C_i) -> logits (B, K, *S_i).

    nnU-Net switches deep supervision by the attribute of this name at a network's `decoder`.
    """

    def __init__(self, stages: Sequence[DecoderStage], num_classes: int, deep_supervision: bool) -> None:
        super().__init__(nn.Linear(stage.channels, num_classes) for stage in stages)
        self.deep_supervision = deep_supervision

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        return [head(x).movedim(-1, 1) for head, x in zip(self, maps, strict=True)]


class PlannedNetwork(nn.Module):
    """(B, input_channels, *S) -> logits (B, K, *S); under deep supervision a list of them, from fine to coarse.

    Every map of the decoder that is coarser than the image has a head for deep supervision. The heads are there
    whether it is on or not, so that a state dict fits in both cases.

    The names of the arguments are nnU-Net's, which also finds the scales of the outputs in the plans' `strides`: each
    is relative to the one before, and the last of them is not an output. Read in nnU-Net 2.8.1:
    `get_network_from_plans` and `nnUNetTrainer`.

    Args:
        input_channels: image channels.
        num_classes: classes including background; nnU-Net's segmentation heads.
        deep_supervision: the first value of `decoder.deep_supervision`.
        network: name in the registry.
        size: of the network, see `registry.SIZES`.
        strides: as the plans have them; they must be the network's own.
        arguments: of the network's constructor; in 3D also `spacing` and `patch_size`.

    Raises:
        ValueError: the network has no maps for deep supervision, or the strides are not its own.
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
        stages = decoder_stages(self.network)
        self.coarse = [stage.scale for stage in stages]  # pixels of the image to one of the map, along each axis
        if strides is not None and [list(stride) for stride in strides] != self.strides:
            raise ValueError(
                f"the plans' strides {strides} are not those of {network}; expected {self.strides}, see "
                "mamba_unet.nnunet.architecture"
            )
        self.decoder = Heads(stages, num_classes, deep_supervision)

    @property
    def strides(self) -> list[list[int]]:
        """Of the outputs, each relative to the one before, as plans have them; the last one is no output."""
        image = (1,) * len(self.coarse[0])
        ratios = [[b // a for a, b in zip(*two, strict=True)] for two in pairwise([image, *self.coarse])]
        return [list(image), *ratios, [2] * len(image)]

    @property
    def scales(self) -> list[list[float]]:
        """Of the outputs under deep supervision, from fine to coarse."""
        return [[1.0] * len(self.coarse[0])] + [[1 / side for side in scale] for scale in self.coarse]

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        if not self.decoder.deep_supervision:
            return self.network(x)
        with decoder_maps(decoder_stages(self.network)) as maps:
            outputs = [self.network(x)]
        for coarse, scale in zip(self.decoder(maps), self.scales[1:], strict=True):
            # the maps are those of the padded image; nnU-Net rounds the sizes of its targets so
            size = [round(side * share) for side, share in zip(x.shape[2:], scale, strict=True)]
            outputs.append(coarse[(..., *map(slice, size))])
        return outputs


def architecture(network: str = "mamba_unet", size: str | None = "tiny", **arguments: Any) -> dict[str, Any]:
    """The entry `architecture` of a configuration in nnU-Net's plans.

    Args:
        network, size, arguments: as `PlannedNetwork` takes them; the values must be JSON's. A baseline, which has no
            size "tiny", is as it was published.
    """
    if size == "tiny" and network in BASELINE_SIZES:
        size = None
    arguments = {"network": network, "size": size, **arguments}
    return {
        "network_class_name": f"{PlannedNetwork.__module__}.{PlannedNetwork.__qualname__}",
        "arch_kwargs": arguments | {"strides": PlannedNetwork(1, 2, **arguments).strides},
        "_kw_requires_import": [],
    }
