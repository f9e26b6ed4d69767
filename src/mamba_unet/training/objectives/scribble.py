"""Learning from scribbles: labels of which most pixels are `IGNORE`."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mamba_unet.training.objectives.base import Batch
from mamba_unet.training.objectives.losses import cross_entropy_loss, soft_dice_loss
from mamba_unet.training.objectives.members import Members
from mamba_unet.training.objectives.ramp import Ramp
from mamba_unet.training.objectives.regularisers import entropy_loss, mumford_shah_loss


class PartialCrossEntropy(Members):
    """Cross-entropy of the pixels that are marked, and what is known of segmentations in general.

    Args:
        members: one network or several, by name; each learns for itself.
        validated: name of the one that is saved.
        batch_size: samples in a batch.
        entropy: weight of the entropy of all pixels.
        mumford_shah: weight of the Mumford-Shah term.

    Source: Tang et al. 2018 (arXiv 1804.01346); the weak baselines of WSL4MIS.
    """

    def __init__(
        self,
        members: Mapping[str, nn.Module],
        validated: str,
        batch_size: int,
        entropy: float = 0.0,
        mumford_shah: float = 0.0,
    ) -> None:
        super().__init__(members, validated)
        self.streams = {"labelled": batch_size}
        self.entropy, self.mumford_shah = entropy, mumford_shah

    def labellers(self, done: float) -> dict[str, nn.Module]:
        return {}

    def forward(self, batch: Mapping[str, Batch], step: int, done: float) -> dict[str, Tensor]:
        image = batch["labelled"]["image"]
        return self.losses(image, batch["labelled"]["label"], [member(image) for member in self.members], step, done)

    def losses(self, image: Tensor, label: Tensor, logits: list[Tensor], step: int, done: float) -> dict[str, Tensor]:
        """ "loss" and its parts, each a sum over the networks."""
        parts = {"cross_entropy": sum(cross_entropy_loss(one, label) for one in logits)}
        loss = parts["cross_entropy"]
        if self.entropy:
            parts["entropy"] = sum(entropy_loss(one) for one in logits)
            loss = loss + self.entropy * parts["entropy"]
        if self.mumford_shah:
            parts["mumford_shah"] = sum(mumford_shah_loss(image, one) for one in logits)
            loss = loss + self.mumford_shah * parts["mumford_shah"]
        return {"loss": loss, **parts}


class MixedPseudoLabels(PartialCrossEntropy):
    """Partial cross-entropy, and the Dice loss to the class that a random mixture of all answers thinks likeliest.

    The shares of the mixture are drawn anew in every step: a stick of length 1, broken at random places.

    No scribble marks what is far from everything that was drawn. There the first answers, of random weights, decide:
    what they call foreground is learned as foreground, and stays so. Hence a class must be likelier than the background
    by a margin at first, so that the background is what is learned where nothing else is known.

    Args:
        members: two or three, by name.
        weight: of the Dice loss.
        seed: of the mixtures.
        background: share of the training in which this margin falls from 1 to 0; with 0 there is none.
        validated, batch_size, entropy, mumford_shah: as for `PartialCrossEntropy`.

    Source: Weak-Mamba-UNet (arXiv 2402.10887), with U-Net, Swin-Unet and Mamba-UNet and weight 1; Luo et al. 2022
    (arXiv 2203.02106), with two decoders, weight 0.5, means over them where these are sums, and dropout before one. The
    margin is ours.
    """

    def __init__(
        self,
        members: Mapping[str, nn.Module],
        validated: str,
        batch_size: int,
        weight: Ramp,
        seed: int = 0,
        background: float = 0.0,
        entropy: float = 0.0,
        mumford_shah: float = 0.0,
    ) -> None:
        super().__init__(members, validated, batch_size, entropy, mumford_shah)
        if len(members) not in (2, 3):
            raise ValueError(f"pseudo labels are mixed of two or three networks, got {', '.join(members)}")
        self.weight, self.seed, self.background = weight, seed, background

    def labellers(self, done: float) -> dict[str, nn.Module]:
        return {"even mixture": _Mixture(self.members, self.margin(done))}

    def losses(self, image: Tensor, label: Tensor, logits: list[Tensor], step: int, done: float) -> dict[str, Tensor]:
        losses = super().losses(image, label, logits, step, done)
        mixture = mixed([one.detach() for one in logits], self.shares(step), self.margin(done))
        pseudo = sum(soft_dice_loss(one, mixture.argmax(dim=1)) for one in logits)
        return {**losses, "loss": losses["loss"] + self.weight(done) * pseudo, "pseudo": pseudo}

    def margin(self, done: float) -> float:
        """By which the background is ahead."""
        return 1 - done / self.background if done < self.background else 0.0

    def shares(self, step: int) -> list[float]:
        """Of the networks in a step's mixture; the same in every process."""
        generator = torch.Generator().manual_seed(((self.seed << 32) + step) % 2**63)
        ends = torch.rand(len(self.members) - 1, generator=generator, dtype=torch.float64).sort().values.tolist()
        return [end - start for start, end in zip([0.0, *ends], [*ends, 1.0], strict=True)]


def mixed(logits: Sequence[Tensor], shares: Sequence[float], margin: float) -> Tensor:
    """The probabilities of several answers in these shares, (B, K, *size); the background is ahead by the margin."""
    mixture = sum(share * one.float().softmax(dim=1) for share, one in zip(shares, logits, strict=True))
    mixture[:, 0] += margin
    return mixture


class _Mixture(nn.Module):
    """The middle of the mixtures that are drawn, as a network: what the training takes for labels, on the whole."""

    def __init__(self, members: nn.ModuleList, margin: float) -> None:
        super().__init__()
        self.members, self.margin = members, margin
        self.training = members.training

    def forward(self, image: Tensor) -> Tensor:
        shares = [1 / len(self.members)] * len(self.members)
        return mixed([member(image) for member in self.members], shares, self.margin).clamp(min=1e-30).log()
