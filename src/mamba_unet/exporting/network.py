"""The network as it is exported: float32 in and out, sizes open, weights without gradients.

B batch, C channels, *S the image's axes, (H, W) or (D, H, W); K classes.
"""

import contextlib
import logging
import warnings
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

AXES = ("depth", "height", "width")


class Exportable(nn.Module):
    """image (B, C, *S) float32 -> logits (B, K, *S) float32, whatever type the weights have."""

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.network, self.dtype = network.to(dtype).eval().requires_grad_(False), dtype

    def forward(self, image: Tensor) -> Tensor:
        return self.network(image.to(self.dtype)).float()


def example(channels: int, size: Sequence[int], any_size: bool) -> Tensor:
    """Images to trace the network with, of the size given; for a file that is to take any size, of one that equals no
    other and no multiple of a stride, because torch takes what is equal by chance for the same."""
    sides = [side + 3 + 2 * axis for axis, side in enumerate(size)] if any_size else size
    return torch.zeros(2, channels, *sides)


def open_sizes(axes: int) -> tuple[dict[int, object], ...]:
    """The dynamic axes of the image, as `torch.export` takes them."""
    names = ("batch", *AXES[-axes:])
    return ({0 if i == 0 else i + 1: torch.export.Dim(name) for i, name in enumerate(names)},)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the exporters' notes on torchvision and on their own deprecations."""
    log = logging.getLogger("torch.onnx")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(before)
