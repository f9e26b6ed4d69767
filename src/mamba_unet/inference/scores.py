"""Tiles of volumes through one or several networks: the one inference path.

B tiles, C channels, h w a network's image size, K classes; V answers to a tile, of networks and of symmetries.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from mamba_unet.views.slices import Slices, SliceTiles

# the symmetries of the square, (quarter turns, mirrored); the first is the identity
SYMMETRIES = [(turns, mirrored) for mirrored in (False, True) for turns in range(4)]


class HasTiles(Protocol):
    """A volume on its way through the networks: its tiles, of each view that they have, and the seconds it took."""

    tiles: Sequence[SliceTiles]
    network_seconds: float


T = TypeVar("T", bound=HasTiles)


@torch.inference_mode()
def score(members: Sequence[nn.Module], tiles: Tensor, tta: bool = False) -> Tensor:
    """Every network's answer to every tile: (B, C, h, w) -> logits (V, B, K, h, w), float32.

    Args:
        members: the networks, in eval mode, on one device.
        tiles: as training saw them; moved to the networks' device and type.
        tta: answer to the eight mirrors and quarter turns of each tile, turned back. On an image size that is not
            square the quarter turns swap h and w.
    """
    answers = []
    for model in members:
        images = tiles.to(next(model.parameters()))
        for symmetry in SYMMETRIES if tta else SYMMETRIES[:1]:
            answers.append(_back(model(_turn(images, *symmetry)), *symmetry).float())
    return torch.stack(answers)


def run_tiles(
    members: Sequence[nn.Module],
    volumes: Iterable[T],
    batch_size: int,
    tta: bool = False,
    progress: Callable[[int], None] | None = None,
    view: int = 0,
) -> Iterator[T]:
    """Take volume after volume through the networks, in order; a batch may hold the end of one and the beginning of the
    next.

    Args:
        members, tta: as for `score`.
        volumes: the next one is taken only when the networks need its tiles.
        batch_size: tiles at a time.
        progress: called with the number of tiles of each batch that was done.
        view: which of a volume's `tiles` these networks see.

    Raises:
        ValueError: a batch does not fit into the device's memory.
    """
    begun: deque[T] = deque()
    batch: list[tuple[T, int]] = []
    for volume in volumes:
        begun.append(volume)
        for number in range(len(volume.tiles[view])):
            batch.append((volume, number))
            if len(batch) == batch_size:
                _run(members, batch, tta, progress, view)
                batch.clear()
        del volume  # not held while the next is waited for
        while begun and not begun[0].tiles[view].waiting:
            yield begun.popleft()
    if batch:
        _run(members, batch, tta, progress, view)
        batch.clear()
    while begun:
        yield begun.popleft()


def _run(
    members: Sequence[nn.Module],
    batch: Sequence[tuple[T, int]],
    tta: bool,
    progress: Callable[[int], None] | None,
    view: int,
) -> None:
    start = time.perf_counter()
    try:
        answers = score(
            members, torch.from_numpy(np.stack([volume.tiles[view][number] for volume, number in batch])), tta
        )
        position = 0
        while position < len(batch):  # tiles of one volume follow one another
            volume, first = batch[position]
            end = position
            while end < len(batch) and batch[end][0] is volume:
                end += 1
            volume.tiles[view].put(range(first, first + end - position), answers[:, position:end])
            position = end
    except torch.OutOfMemoryError as error:
        device = next(members[0].parameters()).device
        raise ValueError(
            f"{len(batch)} tiles at a time do not fit into the memory of {device}; take fewer "
            f"(batch_size={max(1, len(batch) // 4)}, --batch-size)"
        ) from error
    seconds = (time.perf_counter() - start) / len(batch)
    for volume, _ in batch:
        volume.network_seconds += seconds
    if progress is not None:
        progress(len(batch))


def default_batch_size(device: torch.device) -> int:
    """Tiles at a time: on a CPU 4, which is as exact as 16 and a fifth faster: more leave its caches."""
    return 4 if device.type == "cpu" else 16


class _Case:
    def __init__(self, tiles: SliceTiles) -> None:
        self.tiles, self.network_seconds = (tiles,), 0.0


def predict_array(
    model: nn.Module, image: np.ndarray, view: Slices, classes: int, batch_size: int | None = None
) -> np.ndarray:
    """Segment a prepared image with one network, as validation does: (C, S, R, C) float32 -> (S, R, C) uint8.

    Args:
        model: (B, C, h, w) -> logits (B, K, h, w); used in eval mode, on the device it is on.
        image: intensities prepared, axes as in training.
        view: the network's.
        classes: K.
        batch_size: tiles at a time; None fits the device.
    """
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    case = _Case(view.tiles(image[None], classes))
    for _ in run_tiles([model], [case], batch_size or default_batch_size(device)):
        pass
    model.train(was_training)
    return case.tiles[0].labels[0]


def _turn(images: Tensor, turns: int, mirrored: bool) -> Tensor:
    """(B, C, H, W), mirrored left to right, then turned."""
    return torch.rot90(images.flip(-1) if mirrored else images, turns, (-2, -1))


def _back(images: Tensor, turns: int, mirrored: bool) -> Tensor:
    """Undo `_turn`."""
    images = torch.rot90(images, -turns, (-2, -1))
    return images.flip(-1) if mirrored else images
