"""A slice with its classes over it: tinted, outlined, and cut to what is labelled.

H W pixels of one slice.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mamba_unet.drawing.colors import class_color


@dataclass(frozen=True)
class Example:
    """One slice and what was made of it.

    Attributes:
        name: of the slice, "patient001_frame01, slice 4".
        image: (H, W), 0 to 1.
        labels: column -> class indices (H, W): "truth", and "prediction" or the names of networks.
        pixel_size: height and width of a pixel.
    """

    name: str
    image: np.ndarray
    labels: Mapping[str, np.ndarray]
    pixel_size: tuple[float, float] = (1, 1)

    def cropped(self) -> "Example":
        """The square around everything labelled, half as wide again, as far as the image reaches."""
        marked = np.any([label > 0 for label in self.labels.values()], axis=0)
        if not marked.any():
            return self
        places = [np.flatnonzero(marked.any(axis=1 - axis)) for axis in (0, 1)]
        side = 1.5 * max((p[-1] - p[0] + 1) * size for p, size in zip(places, self.pixel_size, strict=True))
        box = []
        for place, size in zip(places, self.pixel_size, strict=True):
            centre, half = (place[0] + place[-1] + 1) / 2, max(side / size / 2, 16)
            box.append(slice(max(0, round(centre - half)), round(centre + half)))
        window = tuple(box)
        labels = {name: label[window] for name, label in self.labels.items()}
        return replace(self, image=self.image[window], labels=labels)

    def pictures(self) -> list[np.ndarray]:
        """The image, then the image under each label map; (height, width, 3) uint8."""
        return [overlay(self.image, label, pixel_size=self.pixel_size) for label in (None, *self.labels.values())]


def overlay(
    image: np.ndarray, label: np.ndarray | None = None, *, pixel_size: Sequence[float] = (1, 1), height: int = 320
) -> np.ndarray:
    """A slice in grey with its classes tinted and outlined.

    Args:
        image: (H, W), 0 to 1.
        label: (H, W) class indices, or None for the image alone.
        pixel_size: height and width of a pixel, in any unit, so that anatomy keeps its proportions.
        height: of the picture, which is enlarged without interpolation.

    Returns:
        (height, width, 3) uint8.
    """
    rows, columns = image.shape
    width = max(1, round(height * columns * pixel_size[1] / (rows * pixel_size[0])))
    where = np.ix_(np.arange(height) * rows // height, np.arange(width) * columns // width)
    picture = np.repeat(np.clip(image, 0, 1)[where][..., None], 3, axis=-1)
    if label is not None:
        label = label[where]
        colors = np.array([_rgb(class_color(index)) for index in range(1, int(label.max()) + 1)]).reshape(-1, 3)
        tint = np.concatenate([np.zeros((1, 3)), colors])[label]
        strength = np.where(_outline(label), 1.0, np.where(label > 0, 0.4, 0.0))[..., None]
        picture = (1 - strength) * picture + strength * tint
    return (255 * picture).round().astype(np.uint8)


def _rgb(color: str) -> tuple[float, ...]:
    return tuple(int(color[i : i + 2], 16) / 255 for i in (1, 3, 5))


def _outline(label: np.ndarray) -> np.ndarray:
    """Foreground pixels with a neighbour of another class, two pixels wide so that they survive shrinking."""
    edge = np.zeros(label.shape, dtype=bool)
    for axis in (0, 1):
        for shift in (-2, -1, 1, 2):
            edge |= np.roll(label, shift, axis) != label
    return edge & (label > 0)
