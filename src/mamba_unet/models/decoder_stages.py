"""The maps that a network's decoder makes on its way to the logits, for losses at several resolutions.

A network that has them says so by a method `decoder_stages`; its forward pass and its parameters know nothing of it.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class DecoderStage:
    """A map of the decoder.

    Attributes:
        module: whose output it is.
        channels: C of it.
        scale: image pixels to one of its pixels, along each axis. The map is that of the padded image.
        channels_last: (B, *S, C) and not (B, C, *S).
    """

    module: nn.Module
    channels: int
    scale: tuple[int, ...]
    channels_last: bool = False


def decoder_stages(network: nn.Module) -> list[DecoderStage]:
    """The maps coarser than the image, from fine to coarse. Raises ValueError where a network tells of none."""
    stages = network.decoder_stages() if hasattr(network, "decoder_stages") else []
    if not stages:
        raise ValueError(
            f"{type(network).__name__} has no decoder of several resolutions that it tells of (`decoder_stages`)"
        )
    return stages


@contextmanager
def decoder_maps(stages: Sequence[DecoderStage]) -> Iterator[list[Tensor]]:
    """While this is open, a forward pass leaves the maps of the stages in the list, channels-last: (B, *S, C)."""
    maps: list[Tensor] = [None] * len(stages)  # type: ignore[list-item]

    def keep(index: int, stage: DecoderStage):
        def hook(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
            maps[index] = output if stage.channels_last else output.movedim(1, -1)

        return stage.module.register_forward_hook(hook)

    handles = [keep(index, stage) for index, stage in enumerate(stages)]
    try:
        yield maps
    finally:
        for handle in handles:
            handle.remove()
