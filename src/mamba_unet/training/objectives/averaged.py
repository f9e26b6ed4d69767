"""Any objective, of whose networks running averages of the weights are validated and saved."""

from collections.abc import Mapping
from copy import deepcopy

import torch
from torch import Tensor, nn

from mamba_unet.training.objectives.base import Batch, Objective


class Averaged(Objective):
    """Trains as another objective does; its networks are the exponential moving averages of that one's.

    After step t the average moves by 1 - d towards the weights, d = min(decay, (1 + t) / (10 + t)), so that it does not
    remember the random start for long. Running statistics of batch norms are averaged too; counters are copied.

    Args:
        objective: what is minimised.
        decay: what the average keeps of itself at each step, 0.999 for example.
    """

    def __init__(self, objective: Objective, decay: float) -> None:
        super().__init__()
        self.objective, self.decay = objective, decay
        first, *others = objective.networks
        self.network = deepcopy(objective.network).requires_grad_(False)
        copies = {name: deepcopy(objective.networks[name]).requires_grad_(False) for name in others}
        self.others, self._first = nn.ModuleDict(copies), first
        self.trained = f"objective.{objective.trained}"
        self.streams = objective.streams
        self._pairs: tuple[list[Tensor], list[Tensor], list[tuple[Tensor, Tensor]]] | None = None

    @property
    def networks(self) -> dict[str, nn.Module]:
        return {self._first: self.network, **self.others}

    def labellers(self, done: float) -> dict[str, nn.Module]:
        return self.objective.labellers(done)

    def forward(self, batch: Mapping[str, Batch], step: int, done: float) -> dict[str, Tensor]:
        return self.objective(batch, step, done)

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        self.objective.after_step(step)
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        if self._pairs is None:
            self._pairs = self._pair()
        averages, values, counters = self._pairs
        torch._foreach_lerp_(averages, values, weight)
        for average, value in counters:
            average.copy_(value)

    def _pair(self) -> tuple[list[Tensor], list[Tensor], list[tuple[Tensor, Tensor]]]:
        """The averages, what they follow, and (copy, counter); gathered once, which takes as long as averaging."""
        pairs = []
        for name, network in self.networks.items():
            current = self.objective.networks[name].state_dict()
            pairs += [(average, current[key]) for key, average in network.state_dict().items()]
        floating = [pair for pair in pairs if pair[0].is_floating_point()]
        averages, values = map(list, zip(*floating, strict=True))
        return averages, values, [pair for pair in pairs if not pair[0].is_floating_point()]
