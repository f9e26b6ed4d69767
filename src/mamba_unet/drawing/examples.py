"""Slices that stand for cases in figures: which cases, which slice, and the pictures of it.

D slices, H W pixels of one slice.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from mamba_unet.drawing.overlay import foreground, overlay, picture, upright
from mamba_unet.views.labels import IGNORE

if TYPE_CHECKING:
    from mamba_unet.data.case import Case


def pick_cases(identifiers: Sequence[str], count: int, seed: int) -> list[str]:
    """Cases for a figure, drawn at random: the choice depends on their names and the seed, not on their results."""
    names = sorted(identifiers)
    drawn = np.random.default_rng(seed).choice(len(names), size=min(count, len(names)), replace=False)
    return [names[i] for i in sorted(drawn)]


def largest_slice(label: np.ndarray) -> int:
    """The slice of (D, H, W) with the largest labelled area."""
    return int((foreground(label) > 0).sum(axis=(1, 2)).argmax())


def most_wrong_slice(label: np.ndarray, prediction: np.ndarray) -> int:
    """The slice of (D, H, W) with the most wrongly labelled pixels; those without ground truth do not count."""
    return int(((prediction != label) & (label != IGNORE)).sum(axis=(1, 2)).argmax())


@dataclass(frozen=True)
class Example:
    """One slice and what was made of it.

    Attributes:
        name: of the slice, "patient001_frame01, slice 4"; slices count from 1 here, as everywhere for people.
        image: (H, W) grey or (H, W, 3) colour, 0 to 1.
        labels: column -> class indices (H, W): "ground truth", and "prediction" or the names of networks.
        pixel_size: height and width of a pixel.
    """

    name: str
    image: np.ndarray
    labels: Mapping[str, np.ndarray]
    pixel_size: tuple[float, float] = (1, 1)

    @classmethod
    def of_case(cls, case: "Case", number: int, predictions: Mapping[str, np.ndarray]) -> "Example":
        """A slice of a case, cut to the surroundings of what is labelled; `predictions` are (D, H, W).

        It stands as radiologists look at it where the directions are known, else as it is stored.
        """
        labels = {} if case.label is None else {"ground truth": case.label}
        labels |= predictions
        example = cls(
            f"{case.identifier}, slice {number + 1}",
            picture(case.image, number),
            {name: label[number] for name, label in labels.items()},
            case.spacing_mm[1:] if case.spacing_mm else (1, 1),
        )
        return (example.turned(case.orientation[1:]) if case.orientation else example).cropped()

    def turned(self, codes: str) -> "Example":
        """Upright; `codes` are nibabel's of the two axes, "PL"."""
        (rows, columns), steps, _ = upright(codes)

        def turn(array: np.ndarray) -> np.ndarray:
            return np.moveaxis(array, (rows, columns), (0, 1))[:: steps[0], :: steps[1]]

        labels = {name: turn(label) for name, label in self.labels.items()}
        sizes = (self.pixel_size[rows], self.pixel_size[columns])
        return replace(self, image=turn(self.image), labels=labels, pixel_size=sizes)

    @classmethod
    def of_slice(cls, case: "Case", number: int, labels: Mapping[str, np.ndarray]) -> "Example":
        """As `of_case`, of label maps (1, H, W) of that slice alone."""
        alone = replace(
            case,
            image=case.image[:, number : number + 1],
            label=None if case.label is None else case.label[number : number + 1],
        )
        return replace(cls.of_case(alone, 0, labels), name=f"{case.identifier}, slice {number + 1}")

    def cropped(self) -> "Example":
        """The square around everything labelled, half as wide again, as far as the image reaches."""
        marked = np.any([foreground(label) > 0 for label in self.labels.values()], axis=0)
        if not marked.any():
            return self
        extents = [np.flatnonzero(marked.any(axis=1 - axis))[[0, -1]] for axis in (0, 1)]
        along = list(zip(extents, self.pixel_size, strict=True))
        side = 1.5 * max((last - first + 1) * size for (first, last), size in along)
        box = []
        for (first, last), size in along:
            centre, half = (first + last + 1) / 2, max(side / size / 2, 16)
            box.append(slice(max(0, round(centre - half)), round(centre + half)))
        window = tuple(box)
        labels = {name: label[window] for name, label in self.labels.items()}
        return replace(self, image=self.image[window], labels=labels)

    def pictures(self) -> list[np.ndarray]:
        """The image, then the image under each label map; (height, width, 3) uint8."""
        return [overlay(self.image, label, pixel_size=self.pixel_size) for label in (None, *self.labels.values())]
