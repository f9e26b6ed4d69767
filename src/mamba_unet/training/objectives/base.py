"""What training minimises, with all that belongs to it: networks, streams of data, and what follows a step."""

from collections.abc import Mapping
from typing import TypedDict

from torch import Tensor, nn


class Batch(TypedDict):
    """Samples of one stream.

    image (B, C, *size) float32; label (B, *size) int64 class indices or `IGNORE`, which is everywhere in a stream
    without labels; name "case/sample" of each.
    """

    image: Tensor
    label: Tensor
    name: list[str]


def halves(batch_size: int) -> dict[str, int]:
    """Streams of a batch that is half labelled; of an odd one the labelled half is the smaller."""
    return {"labelled": batch_size // 2, "unlabelled": batch_size - batch_size // 2}


class Objective(nn.Module):
    """One objective of training; a method such as mean teacher is a subclass in a file of its own.

    Everything that must survive a kill is a submodule, a parameter or a buffer: the state dict travels in last.ckpt.
    What needs no gradient has `requires_grad` off and gets no optimiser. What is drawn by chance is drawn by the step,
    and by the sample's name where it is the sample's own, so that several processes draw what one would.

    Attributes:
        network: is validated, and saved as the best.
        trained: name of the submodule that is trained from the recipe's checkpoint, if any.
        streams: name -> samples of it in a batch, over all devices together: `{"labelled": 12, "unlabelled": 12}`.
    """

    network: nn.Module
    trained: str = "network"
    streams: Mapping[str, int]

    @property
    def networks(self) -> dict[str, nn.Module]:
        """All that are validated, by name; `network` is the first, the others are reported beside it."""
        return {"network": self.network}

    def labellers(self, done: float) -> dict[str, nn.Module]:
        """Those whose answers are taken for labels, by name.

        Args:
            done: how much of the training is over, from 0 to 1.
        """
        return {}

    def forward(self, batch: Mapping[str, Batch], step: int, done: float) -> dict[str, Tensor]:
        """ "loss", which is minimised, and its parts, all scalars and logged by name.

        Args:
            batch: one for each of `streams`.
            step: iterations done before this one.
            done: how much of the training is over, from 0 to 1, by its iterations or its minutes.
        """
        raise NotImplementedError

    def after_step(self, step: int) -> None:
        """What follows the optimiser's step, a teacher's moving average for example; nothing by default.

        Args:
            step: iterations done, this one included.
        """
