"""A small picture of one of several volumes, to choose it by."""

import io
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from mamba_unet.serve.readers import Readers
from mamba_unet.serve.result import RGB, viewer_affine, viewer_array
from mamba_unet.volumes.geometry import axis_codes
from mamba_unet.volumes.read import read_volume
from mamba_unet.volumes.volume import Volume

if TYPE_CHECKING:
    from mamba_unet.volumes.find import VolumeFile

SIDE = 96  # pixels at most
PERCENTILES = (1, 99)  # what is shown black and white


def thumbnail(file: "VolumeFile", readers: Readers) -> bytes:
    """PNG of the middle slice along D; of a DICOM series in a folder, its middle file alone is read.

    Raises:
        UnreadableError: it cannot be read.
    """
    from PIL import Image

    read = file.read
    if file.series is not None and file.path.is_dir():
        read = partial(read_volume, file.path / file.series.files[len(file.series.files) // 2])
    volume = readers.read(read, file.path)
    pixels, (height, width) = _slice(volume)
    scale = SIDE / max(pixels.shape[0] * height, pixels.shape[1] * width)
    size = (max(1, round(pixels.shape[1] * width * scale)), max(1, round(pixels.shape[0] * height * scale)))
    held = io.BytesIO()
    Image.fromarray(_grey(pixels)).resize(size).save(held, "png")
    return held.getvalue()


def _slice(volume: Volume) -> tuple[np.ndarray, list[float]]:
    """(H, W) as radiologists look at it, and the height and width of a pixel."""
    array = viewer_array(volume)
    pixels, size = array[0, array.shape[1] // 2], list((volume.spacing_mm or (1, 1, 1))[1:])
    rows, columns = axis_codes(viewer_affine(volume))[1:]
    if rows in "RL" or columns in "SI":
        pixels, size, rows, columns = pixels.T, size[::-1], columns, rows
    return pixels[:: -1 if rows in "AS" else 1, :: -1 if columns in "RA" else 1], size


def _grey(pixels: np.ndarray) -> np.ndarray:
    if pixels.dtype == RGB:
        return np.ascontiguousarray(pixels).view(np.uint8).reshape(*pixels.shape, 3)
    values = np.nan_to_num(pixels.astype(np.float32))
    low, high = np.percentile(values, PERCENTILES)
    return np.rint(255 * ((values - low) / max(high - low, 1e-6)).clip(0, 1)).astype(np.uint8)
