"""Learning from labels at several resolutions."""

from collections.abc import Mapping, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from mamba_unet.models.decoder_stages import decoder_maps, decoder_stages
from mamba_unet.training.objectives.base import Batch
from mamba_unet.training.objectives.losses import segmentation_loss
from mamba_unet.training.objectives.supervised import Supervised
from mamba_unet.views.labels import IGNORE


class DeeplySupervised(Supervised):
    """The loss of the logits, and that of each coarser map of the decoder, through a linear layer of its own.

    The weights are 1, 1/2, 1/4, ... from the image's resolution down, divided by their sum. Of several maps the
    coarsest has no loss. The linear layers are no part of the network: what is validated and saved has none.

    Args:
        network: (B, C, *S) -> logits (B, K, *S), with `decoder_stages`.
        batch_size: samples in a batch.
        num_classes: K.

    Raises:
        ValueError: the network tells of no decoder of several resolutions.

    Source: Dou et al. 2017 (deep supervision); the weights as in nnU-Net (Isensee et al. 2021).
    """

    def __init__(self, network: nn.Module, batch_size: int, num_classes: int) -> None:
        super().__init__(network, batch_size)
        stages = decoder_stages(network)
        self.stages = stages[:-1] or stages
        self.heads = nn.ModuleList(nn.Linear(stage.channels, num_classes) for stage in self.stages)

    def forward(self, batch: Mapping[str, Batch], step: int, done: float) -> dict[str, Tensor]:
        image, label = batch["labelled"]["image"], batch["labelled"]["label"]
        with decoder_maps(self.stages) as maps:
            losses = segmentation_loss(self.network(image), label)
        weights = [0.5**level for level in range(len(maps) + 1)]
        coarse = 0
        for weight, head, map_, stage in zip(weights[1:], self.heads, maps, self.stages, strict=True):
            logits = head(map_).movedim(-1, 1)
            coarse = coarse + weight * segmentation_loss(logits, coarser(label, map_.shape[1:-1], stage.scale))["loss"]
        loss = (losses["loss"] + coarse) / sum(weights)
        return losses | {"loss": loss, "coarse_loss": coarse / sum(weights[1:])}


def coarser(label: Tensor, size: Sequence[int], scale: Sequence[int]) -> Tensor:
    """The label of a map of the padded image: of each block of `scale` pixels the one behind its middle, `IGNORE` where
    there is only padding.

    Args:
        label: (B, *S).
        size: of the map.
        scale: pixels to one of the map, along each axis.
    """
    missing = [n * step - side for n, step, side in zip(size, scale, label.shape[1:], strict=True)]
    label = F.pad(label, [n for extra in reversed(missing) for n in (0, extra)], value=IGNORE)
    return label[(..., *(slice(step // 2, None, step) for step in scale))]
