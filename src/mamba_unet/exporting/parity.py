"""Whether an exported network gives the answers of the one it was exported from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from mamba_unet.inference.predictor import Predictor
from mamba_unet.inference.scores import score
from mamba_unet.views.preprocessing import Preprocessing
from mamba_unet.volumes.read import read_volume

TILES = 4  # of a real image, from its middle


@dataclass(frozen=True)
class Bound:
    """The most that logits may differ: `absolute`, or `relative` times the largest logit."""

    absolute: float = 0.0
    relative: float = 0.0

    def of(self, largest: float) -> float:
        return max(self.absolute, self.relative * largest)

    def __str__(self) -> str:
        return f"{self.absolute:g}" if self.absolute else f"{self.relative:g} of the largest logit"


BOUNDS: Mapping[str, Bound] = {"float32": Bound(absolute=1e-4), "float16": Bound(relative=0.02)}


@dataclass(frozen=True)
class Difference:
    """On one batch of images.

    Attributes:
        image: what they are.
        largest: absolute difference of logits.
        logit: the largest logit.
        other_class: share of the pixels that get another class.
    """

    image: str
    largest: float
    logit: float
    other_class: float

    def __str__(self) -> str:
        return (
            f"{self.image}: largest difference {self.largest:.2g} of logits up to {self.logit:.3g}; "
            f"{self.other_class:.3%} of the pixels get another class"
        )


def images_to_check(
    checkpoint: Path, preprocessing: Preprocessing, check_image: str | Path | None, any_size: bool
) -> Mapping[str, Tensor]:
    """Batches (B, C, *S) by what they are: random ones of the network's size and, for files that take any size, of an
    odd one and of one pixel; and a real image's."""
    size, generator = preprocessing.view.size, torch.Generator().manual_seed(0)
    odd = [max(side * 2 // 3, 1) + 2 * axis for axis, side in enumerate(size)]
    wanted = [(2, size), *([(1, odd), (1, [1] * len(size))] if any_size else [(3, size)])]
    images = {
        f"random, {count} x {' x '.join(map(str, sides))}": torch.rand(
            count, preprocessing.channels, *sides, generator=generator
        )
        for count, sides in wanted
    }
    if check_image is not None:
        tiles = Predictor(checkpoint, "cpu").prepare(read_volume(check_image)).tiles[0]
        first = max((len(tiles) - TILES) // 2, 0)
        some = [tiles[number] for number in range(first, min(first + TILES, len(tiles)))]
        images[Path(check_image).name] = torch.from_numpy(np.stack(some)).float()
    return images


def compare(
    network: nn.Module, exported: nn.Module, images: Mapping[str, Tensor], bound: Bound, name: str
) -> Sequence[Difference]:
    """Run both on the CPU.

    Raises:
        ValueError: an answer is not finite, or differs by more than the bound.
    """
    differences = []
    for image, batch in images.items():
        expected, got = score([network], batch)[0], torch.from_numpy(np.asarray(_run(exported, batch)))
        largest, logit = float((expected - got).abs().max()), float(expected.abs().max())
        other = float((expected.argmax(1) != got.argmax(1)).float().mean())
        differences.append(Difference(image, largest, logit, other))
        if not largest <= bound.of(logit):  # NaN too
            raise ValueError(
                f"{name} was not written: its answers differ from the network's by more than {bound} "
                f"({differences[-1]}); export in float32, or report it with the versions that `mamba-unet info` prints"
            )
    return differences


@torch.inference_mode()
def _run(exported: nn.Module, batch: Tensor) -> Tensor:
    return exported(batch)
