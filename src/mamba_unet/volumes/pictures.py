"""Pictures of 1 to 32 bits: grey values, colours, or the indices of a label."""

import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mamba_unet.files import atomic_path
from mamba_unet.volumes.formats import TIFF, Kind, RefusedError
from mamba_unet.volumes.limits import require_memory
from mamba_unet.volumes.volume import Volume

BYTES = {"1": 3, "L": 3, "P": 12, "I;16": 6, "I;16B": 6, "I;16L": 6}  # a pixel takes on its way to an array; else 12
BITS, WHITE_IS_ZERO, SAMPLES, PLANAR, TILE_WIDTH, TILE_HEIGHT, SAMPLE_FORMAT = 258, 262, 277, 284, 322, 323, 339  # TIFF
FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "GIF")  # what Pillow may take a picture for, whatever its name


def read_picture(path: Path, kind: Kind, name: str) -> Volume:
    """A picture: (1, 1, D, H, W) where all its pixels are grey, else (1, 3, D, H, W); D are the pages of a TIFF.

    A camera's note that a photograph is turned (EXIF) is followed, as every viewer does. Opacity is left out. A label's
    palette stands for indices.

    Raises:
        RefusedError: a label in colours, pages of different sizes, an animation, planes that may be slices or colours,
            grey values that the library which reads pictures would cut or turn round.
        UnreadableError: more than the memory limit.
    """
    from PIL import Image, ImageOps

    notes: tuple[str, ...] = ()
    _require_no_planes(path)
    with _without_pillows_limit():
        with Image.open(path, formats=FORMATS) as picture:
            pages = getattr(picture, "n_frames", 1)
            if picture.format == "MPO" and pages > 1:  # a camera's JPEG with another view or a preview behind it
                notes, pages = (f"the first of the {pages} pictures in it is taken",), 1
            elif pages > 1 and picture.format != "TIFF":
                raise RefusedError(f"an animation of {pages} pictures; expected one picture")
            arrays, size, cut = [], 0, False
            for page in range(pages):
                picture.seek(page)
                width, height = picture.size
                size += width * height * BYTES.get(picture.mode, 12)
                require_memory(path, size + _tile(picture))
                cut |= _is_cut(picture)
                stored = _stored_type(picture)
                page = _page(ImageOps.exif_transpose(picture), kind)
                arrays.append(page if stored is None else page.view(stored))
    if len({array.shape[:2] for array in arrays}) > 1:
        sizes = ", ".join(f"{height} x {width}" for height, width in dict.fromkeys(array.shape[:2] for array in arrays))
        raise RefusedError(f"pages of different sizes: {sizes[:200]}; expected one volume's slices, all alike")
    grey = all(array.ndim == 2 or (array == array[..., :1]).all() for array in arrays)
    if kind != "image" and not grey:
        raise RefusedError("a label in colours: expected one class index per pixel; convert each colour to an index")
    if cut and grey:
        raise RefusedError(
            "grey values of 16 bits stored as colours or with opacity, of which only 8 bits can be read; save it as "
            "grey alone"
        )
    if grey:
        arrays = [array if array.ndim == 2 else array[..., 0] for array in arrays]
        return replace(Volume.from_array(np.stack(arrays), name=name), notes=notes)
    arrays = [array if array.ndim == 3 else np.repeat(array[..., None], 3, axis=-1) for array in arrays]
    return replace(Volume.from_array(np.stack(arrays), name=name, channel_axis=-1), notes=notes)


@contextmanager
def _without_pillows_limit() -> Iterator[None]:
    """Pillow counts pixels and not bytes, and its limit is no setting of ours: `require_memory` is asked instead."""
    from PIL import Image

    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def _require_no_planes(path: Path) -> None:
    """3 or 4 slices, as tifffile writes them by default, are the planes of one picture in colours: no tag tells."""
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    with open(path, "rb") as file:
        start = file.read(16)
        if start[:2] not in (b"II", b"MM"):
            return
        try:
            tags = ImageFileDirectory_v2(start if 43 in start[2:4] else start[:8])
            file.seek(tags.next)
            tags.load(file)
        except (SyntaxError, OSError, struct.error):  # no TIFF, or a damaged one
            return
        planes = int(tags.get(SAMPLES, 1))
    if tags.get(PLANAR, 1) == 2 and planes > 1:
        raise RefusedError(
            f"{planes} planes, which may be slices or colours; expected one page per slice, or colours in one plane: "
            'write slices with tifffile.imwrite(..., photometric="minisblack"), colours with planarconfig="contig"'
        )


def _tile(picture: Any) -> int:
    """Bytes of one tile of a TIFF, which may be larger than the picture; 0 of other pictures."""
    tags = getattr(picture, "tag_v2", {})
    return int(tags.get(TILE_WIDTH, 0)) * int(tags.get(TILE_HEIGHT, 0)) * 4


def _is_cut(picture: Any) -> bool:
    """Whether Pillow keeps 8 of the 16 bits of a pixel, as it does of all but grey values alone."""
    return not picture.mode.startswith("I") and bool(picture.tile) and ";16" in str(picture.tile[0][3])


def _stored_type(picture: Any) -> str | None:
    """The type of a TIFF's numbers where Pillow takes it for another; None where it does not.

    Raises:
        RefusedError: white is 0 in more bits than Pillow turns round.
    """
    tags = getattr(picture, "tag_v2", {})
    form, bits, white = (int(np.atleast_1d(tags.get(tag, 1))[0]) for tag in (SAMPLE_FORMAT, BITS, WHITE_IS_ZERO))
    if white == 0 and picture.mode not in ("1", "L"):
        raise RefusedError("white is 0 in it (PhotometricInterpretation); save it with black as 0")
    return {("L", 2, 8): "int8", ("I", 1, 32): "uint32"}.get((picture.mode, form, bits))


def _page(picture: Any, kind: Kind) -> np.ndarray:
    """(H, W), or (H, W, 3) of a page in colours."""
    if picture.mode == "P" and kind == "image":
        picture = picture.convert("RGB")
    if picture.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
        picture = picture.convert("RGB")
    array = np.asarray(picture)
    if array.dtype == bool:
        return array.astype(np.uint8)
    return array if array.ndim == 2 else array[..., {"LA": 0}.get(picture.mode, slice(3))]


def save_mask(path: str | Path, label: np.ndarray, values: Sequence[int] = ()) -> None:
    """Write a label as a picture, atomically: 8 bits where its values allow, else 16.

    Args:
        path: .png of one slice, or .tif, which has a page for each.
        label: (D, H, W) class indices.
        values: what to write for each class; empty: its index.

    Raises:
        ValueError: several slices in a format of one page, or a value beyond 16 bits.
    """
    from PIL import Image

    path, values = Path(path), np.array(values or range(256), np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError(
            f"{path}: label values {values.min()} to {values.max()} do not fit into a picture; write NIfTI"
        )
    if len(label) > 1 and path.suffix.lower() not in TIFF:
        raise ValueError(f"{path}: {len(label)} slices do not fit into one picture; write NIfTI or .tif")
    stored = values.astype(np.uint8 if values.max() < 256 else np.uint16)[label]
    first, *others = [Image.fromarray(page) for page in stored]
    with atomic_path(path) as temporary:
        first.save(temporary, **({"save_all": True, "append_images": others} if others else {}))
