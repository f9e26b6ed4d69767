"""Learning from labels alone."""

from collections.abc import Mapping

from torch import Tensor, nn

from mamba_unet.training.objectives.base import Batch, Objective
from mamba_unet.training.objectives.losses import segmentation_loss


class Supervised(Objective):
    """Cross-entropy and Dice of one network on labelled samples.

    Args:
        network: (B, C, *size) -> logits (B, K, *size).
        batch_size: samples in a batch.
    """

    def __init__(self, network: nn.Module, batch_size: int) -> None:
        super().__init__()
        self.network = network
        self.streams = {"labelled": batch_size}

    def forward(self, batch: Mapping[str, Batch], step: int, done: float) -> dict[str, Tensor]:
        labelled = batch["labelled"]
        return segmentation_loss(self.network(labelled["image"]), labelled["label"])
