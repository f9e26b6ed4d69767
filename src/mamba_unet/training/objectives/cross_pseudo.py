"""Cross pseudo supervision: on images without labels, two networks learn each other's answers."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mamba_unet.training.objectives.base import Batch, halves
from mamba_unet.training.objectives.contrast import PixelContrast
from mamba_unet.training.objectives.losses import segmentation_loss
from mamba_unet.training.objectives.members import Members
from mamba_unet.training.objectives.ramp import Ramp

PSEUDO_LOSS = {"ce_dice": "loss", "ce": "cross_entropy", "dice": "dice_loss"}  # -> the part of `segmentation_loss`


class CrossPseudo(Members):
    """Half of a batch has labels; on the other half each network learns the hard answer of the other.

    Args:
        members: two, by name.
        validated: name of the one that is saved.
        batch_size: samples in a batch.
        weight: of the loss on pseudo labels.
        pseudo_loss: how pseudo labels are learned, a key of `PSEUDO_LOSS`.
        contrast: the contrastive term between the networks, of the whole batch; None for none.
        contrast_weight: of it, for each network.

    Source: Chen et al. 2021 (arXiv 2106.01226); of two kinds of network, Luo et al. 2022 (arXiv 2112.04894), and with
    the contrastive term Semi-Mamba-UNet (arXiv 2402.07245). Pseudo labels are learned on the unlabelled half alone, as
    in SSL4MIS.
    """

    def __init__(
        self,
        members: Mapping[str, nn.Module],
        validated: str,
        batch_size: int,
        weight: Ramp,
        pseudo_loss: str = "ce_dice",
        contrast: PixelContrast | None = None,
        contrast_weight: float = 0.5,
    ) -> None:
        super().__init__(members, validated)
        if len(members) != 2:
            raise ValueError(f"cross pseudo supervision is between two networks, got {', '.join(members)}")
        self.streams = halves(batch_size)
        self.weight, self.pseudo_loss = weight, PSEUDO_LOSS[pseudo_loss]
        self.contrast, self.contrast_weight = contrast, contrast_weight

    def forward(self, batch: Mapping[str, Batch], step: int, done: float) -> dict[str, Tensor]:
        labelled, unlabelled = batch["labelled"], batch["unlabelled"]
        count = len(labelled["image"])
        image = torch.cat([labelled["image"], unlabelled["image"]])
        logits = [member(image) for member in self.members]
        answers = [one[count:].detach().argmax(dim=1) for one in logits]
        supervised = sum(segmentation_loss(one[:count], labelled["label"])["loss"] for one in logits)
        pseudo = sum(
            segmentation_loss(own[count:], other)[self.pseudo_loss]
            for own, other in zip(logits, answers[::-1], strict=True)
        )
        parts = {"supervised": supervised, "pseudo": pseudo}
        loss = supervised + self.weight(done) * pseudo
        if self.contrast is not None:
            parts["contrast"] = self.contrast(*logits)
            loss = loss + 2 * self.contrast_weight * parts["contrast"]
        return {"loss": loss, **parts}
