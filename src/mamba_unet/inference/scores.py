"""Tiles of volumes through one or several networks: the one inference path.

B tiles, C channels, *size a tile's, (h, w) or (d, h, w), K classes; V answers to a tile, of networks and symmetries.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import combinations, groupby
from operator import itemgetter
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from mamba_unet.views.view import Tiles, View, on_grid

# a tile turned, and its answer turned back; the first of each list leaves it alone
Symmetry = tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]


class HasTiles(Protocol):
    """A volume on its way through the networks: its tiles, of each view that they have, the seconds it took, and why it
    has no answer."""

    tiles: Sequence[Tiles]
    network_seconds: float
    failure: Exception | None


T = TypeVar("T", bound=HasTiles)


@torch.inference_mode()
def score(members: Sequence[nn.Module], tiles: Tensor, tta: bool = False) -> Tensor:
    """Every network's answer to every tile: (B, C, *size) -> logits (V, B, K, *size), float32.

    Args:
        members: the networks, in eval mode, on one device.
        tiles: as training saw them; moved to the networks' device and type.
        tta: answer to the eight symmetries of each tile, turned back. Of slices these are mirrors and quarter turns,
            which swap h and w where they differ; of patches the mirrors along three axes.
    """
    answers = []
    for model in members:
        images = tiles.to(next(model.parameters()))
        for turn, back in symmetries(tiles.ndim - 2) if tta else symmetries(tiles.ndim - 2)[:1]:
            answers.append(back(model(turn(images))).float())
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

    Returns:
        The volumes, their tiles answered; or with a `failure`, where the memory is too small for them or an answer is
        no number.
    """
    begun: deque[T] = deque()
    batch: list[tuple[T, int]] = []
    for volume in volumes:
        begun.append(volume)
        for number in range(len(volume.tiles[view])):
            if volume.failure is not None:
                break
            batch.append((volume, number))
            if len(batch) == batch_size:
                _run(members, batch, tta, progress, view)
                batch.clear()
        del volume  # not held while the next is waited for
        while begun and (begun[0].failure is not None or not begun[0].tiles[view].waiting):
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
    parts = [(volume, list(tiles)) for volume, tiles in groupby(batch, key=itemgetter(0))]
    try:
        answers = score(
            members, torch.from_numpy(np.stack([volume.tiles[view][number] for volume, number in batch])), tta
        )
    except (MemoryError, RuntimeError) as error:
        for volume, _ in parts:
            volume.failure = _too_large(error, members[0], len(batch))
        parts = []
    position = 0
    for volume, tiles in parts:
        numbers, theirs = range(tiles[0][1], tiles[-1][1] + 1), answers[:, position : position + len(tiles)]
        position += len(tiles)
        if not theirs.sum().isfinite():  # what is no number makes the sum none
            volume.failure = ValueError(
                "the network's answer is NaN or infinite: intensities far from those of the training, or a network in "
                "half precision that cannot hold them; look at the image, or take the network in float32"
            )
            continue
        try:
            volume.tiles[view].put(numbers, theirs)
        except (MemoryError, RuntimeError) as error:
            volume.failure = _too_large(error, members[0], len(batch))
    seconds = (time.perf_counter() - start) / len(batch)
    for volume, _ in batch:
        volume.network_seconds += seconds
    if progress is not None:
        progress(len(batch))


def _too_large(error: Exception, model: nn.Module, tiles: int) -> ValueError:
    """What to do where memory is short; another error is raised again."""
    if not (isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)):
        raise error
    device = next(model.parameters()).device
    return ValueError(
        f"{tiles} tiles at a time and their answers do not fit into the memory of {device}; take fewer "
        f"(batch_size={max(1, tiles // 4)}, --batch-size), or a smaller image"
    )


class _Case:
    failure: Exception | None = None

    def __init__(self, tiles: Tiles) -> None:
        self.tiles, self.network_seconds = (tiles,), 0.0


def predict_array(
    model: nn.Module,
    image: np.ndarray,
    view: View,
    classes: int,
    batch_size: int | None = None,
    spacing_mm: Sequence[float] | None = None,
) -> np.ndarray:
    """Segment a prepared image with one network, as validation does: (C, D, H, W) float32 -> uint8 (D, H, W).

    Args:
        model: (B, C, *size) -> logits (B, K, *size); used in eval mode, on the device it is on.
        image: intensities prepared, axes as in training.
        view: the network's.
        classes: K.
        batch_size: tiles at a time; None takes what the view says.
        spacing_mm: voxel size of D, H, W; None where unknown.

    Raises:
        ValueError: the memory is too small, or an answer is no number.
    """
    was_training = model.training
    model.eval()
    on_cpu = next(model.parameters()).device.type == "cpu"
    case = _Case(view.tiles(on_grid(image[None], spacing_mm, view), classes, False, image.shape[-3:]))
    for _ in run_tiles([model], [case], batch_size or view.at_a_time(on_cpu)):
        pass
    model.train(was_training)
    if case.failure is not None:
        raise case.failure
    return case.tiles[0].labels[0]


def symmetries(axes: int) -> list[Symmetry]:
    """Eight ways to turn a tile (B, C, *size) of so many axes, and its answer back; the first leaves it alone."""
    if axes == 3:
        return [
            (partial(torch.flip, dims=mirrored),) * 2
            for count in range(4)
            for mirrored in combinations((-3, -2, -1), count)
        ]
    return [
        (partial(_turn, turns=turns, mirrored=mirrored), partial(_back, turns=turns, mirrored=mirrored))
        for mirrored in (False, True)
        for turns in range(4)
    ]


def _turn(images: Tensor, turns: int, mirrored: bool) -> Tensor:
    """(B, C, H, W), mirrored left to right, then turned."""
    return torch.rot90(images.flip(-1) if mirrored else images, turns, (-2, -1))


def _back(images: Tensor, turns: int, mirrored: bool) -> Tensor:
    """Undo `_turn`."""
    images = torch.rot90(images, -turns, (-2, -1))
    return images.flip(-1) if mirrored else images
