"""A slice as a picture, with its classes over it: tinted and outlined.

C channels, D slices, H W pixels of one slice.
"""

from collections.abc import Sequence

import numpy as np

from mamba_unet.drawing.colors import class_color
from mamba_unet.views.labels import IGNORE


def picture(image: np.ndarray, number: int) -> np.ndarray:
    """One slice of an image, to look at: (H, W, 3) where the image has three channels, else (H, W) of the first.

    Args:
        image: (C, D, H, W), or (D, H, W) of one channel.
        number: of the slice.
    """
    if image.ndim == 3:
        return image[number]
    return np.moveaxis(image[:, number], 0, -1) if len(image) == 3 else image[0, number]


def upright(codes: str) -> tuple[tuple[int, int], tuple[int, int], tuple[str, str]]:
    """How a plane's two axes are turned for display: head or front on top, the patient's right or front on the left.

    Args:
        codes: nibabel's of the two axes in array order, "PL".

    Returns:
        The axes that become rows and columns, the step along each (1 or -1), and the letters at the top and the left.
    """
    rows, columns = order = sorted((0, 1), key=lambda axis: "ISPALR".index(codes[axis]) // 2)
    steps = [1 if codes[axis] in "IPL" else -1 for axis in order]
    letters = ["SAR"["ISPALR".index(codes[axis]) // 2] for axis in order]
    return (rows, columns), (steps[0], steps[1]), (letters[0], letters[1])


def overlay(
    image: np.ndarray, label: np.ndarray | None = None, *, pixel_size: Sequence[float] = (1, 1), height: int = 320
) -> np.ndarray:
    """A slice with its classes tinted and outlined.

    Args:
        image: (H, W) grey or (H, W, 3) colour, 0 to 1.
        label: (H, W) class indices, or None for the image alone. Pixels without ground truth (255) stay as they are.
        pixel_size: height and width of a pixel, in any unit, so that anatomy keeps its proportions.
        height: of the picture, which is enlarged without interpolation.

    Returns:
        (height, width, 3) uint8.
    """
    rows, columns = image.shape[:2]
    width = max(1, round(height * columns * pixel_size[1] / (rows * pixel_size[0])))
    where = np.ix_(np.arange(height) * rows // height, np.arange(width) * columns // width)
    picture = np.clip(image, 0, 1)[where]
    if picture.ndim == 2:
        picture = np.repeat(picture[..., None], 3, axis=-1)
    if label is not None:
        label = foreground(label)[where]
        colors = np.array([_rgb(class_color(index)) for index in range(1, int(label.max()) + 1)]).reshape(-1, 3)
        tint = np.concatenate([np.zeros((1, 3)), colors])[label]
        strength = np.where(_outline(label), 1.0, np.where(label > 0, 0.4, 0.0))[..., None]
        picture = (1 - strength) * picture + strength * tint
    return (255 * picture).round().astype(np.uint8)


def foreground(label: np.ndarray) -> np.ndarray:
    """The class indices, with background where there is no ground truth."""
    return np.where(label == IGNORE, 0, label)


def _rgb(color: str) -> tuple[float, ...]:
    return tuple(int(color[i : i + 2], 16) / 255 for i in (1, 3, 5))


def _outline(label: np.ndarray) -> np.ndarray:
    """Foreground pixels with a neighbour of another class, two pixels wide so that they survive shrinking."""
    edge = np.zeros(label.shape, dtype=bool)
    for axis in (0, 1):
        for shift in (-2, -1, 1, 2):
            edge |= np.roll(label, shift, axis) != label
    return edge & (label > 0)
