"""Objectives with several networks that learn side by side."""

from collections.abc import Mapping

from torch import nn

from mamba_unet.training.objectives.base import Objective

# the submodules that make a network's encoder, of the networks that have one apart
ENCODERS = ("encoder", "stem", "patch_embed", "layers", "norm", "transformer")


class Members(Objective):
    """What such objectives share: which network is validated, and what they are called.

    Args:
        members: name -> network; the recipe's checkpoint is loaded into the first.
        validated: name of the one that is validated and saved; the others are reported.
    """

    trained = "members.0"

    def __init__(self, members: Mapping[str, nn.Module], validated: str) -> None:
        super().__init__()
        self.members, self.names, self.validated = nn.ModuleList(members.values()), list(members), validated

    @property
    def network(self) -> nn.Module:
        return self.members[self.names.index(self.validated)]

    @property
    def networks(self) -> dict[str, nn.Module]:
        return {self.validated: self.network} | dict(zip(self.names, self.members, strict=True))

    def labellers(self, done: float) -> dict[str, nn.Module]:
        return dict(zip(self.names, self.members, strict=True))


def share_encoder(network: nn.Module, other: nn.Module) -> None:
    """Give `other` the encoder of `network`, so that the two are one encoder with two decoders.

    Raises:
        ValueError: this kind of network has no encoder apart.
    """
    shared = [name for name in ENCODERS if isinstance(getattr(network, name, None), nn.Module)]
    if not shared:
        raise ValueError(f"{type(network).__name__} has no encoder apart from its decoder; take another network")
    for name in shared:
        setattr(other, name, getattr(network, name))
