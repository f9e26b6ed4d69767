"""Decoded pixels of DICOM images as values: freed of bits that are no values, scaled, and padding taken out.

T phases, D positions, H W rows and columns.
"""

from collections import defaultdict
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mamba_unet.volumes.dicom.decode import decode
from mamba_unet.volumes.dicom.files import place, reading
from mamba_unet.volumes.dicom.frame import Frame, number
from mamba_unet.volumes.formats import RefusedError
from mamba_unet.volumes.limits import require_memory

if TYPE_CHECKING:
    from pydicom import Dataset

_PADDING_SHARE = 0.1  # of the range of values: padding further outside is no value, and would spoil minimum and maximum


def values_of(path: Path, stack: Sequence[Sequence[Frame]], notes: list[str]) -> np.ndarray:
    """(T, D, H, W): pixels decoded, slope and intercept applied. Encoded pixels are dropped from the data sets.

    Integers as narrow as hold all values, float32 where a scale is no whole number. Padding far outside the values
    takes the lowest of them.

    Raises:
        UnreadableError: names the file whose pixels cannot be decoded, or do not fit the memory.
        RefusedError: a scale that leaves no numbers.
    """
    rows, columns = stack[0][0].dataset.Rows, stack[0][0].dataset.Columns
    frames = {(t, d): frame for t, phase in enumerate(stack) for d, frame in enumerate(phase)}
    by_dataset: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for where, frame in frames.items():
        by_dataset[id(frame.dataset)].append(where)
    scales = {where: _slope_and_intercept(frame.header, notes) for where, frame in frames.items()}
    kind = _value_type(frames.values(), set(scales.values()))
    shape = (len(stack), len(stack[0]), rows, columns)
    padded = any("PixelPaddingValue" in frame.dataset for frame in frames.values())
    require_memory(path, int(np.prod(shape, dtype=object)) * (np.dtype(kind).itemsize + padded))
    array, padding = np.empty(shape, kind), np.zeros(shape if padded else (0,) * 4, bool)
    for wheres in by_dataset.values():
        dataset, file = frames[wheres[0]].dataset, place(path, frames[wheres[0]].name)
        pixels = decode(file, dataset)
        with reading(file):
            outside = _is_padding(pixels, dataset)
            pixels = _without_other_bits(pixels, dataset, outside, notes)
        del dataset.PixelData
        for where in wheres:
            slope, intercept = scales[where]
            index = frames[where].index
            if kind == np.float32:
                array[where] = pixels[index].astype(np.float32) * np.float32(slope) + np.float32(intercept)
            else:
                array[where] = pixels[index] + np.int64(intercept)
            if outside is not None:
                padding[where] = outside[index]
    if padding.any():
        _fill_padding(array, padding, notes)
    return array


def _bits(pixels: np.ndarray, dataset: "Dataset") -> tuple[int, int, int]:
    """Width of a decoded pixel, how many of its bits are the value, and the highest of them."""
    width = 8 * pixels.itemsize
    stored = min(dataset.BitsStored, width)
    packed = dataset.file_meta.TransferSyntaxUID.is_encapsulated  # where the value is always at the lower end
    return width, stored, stored - 1 if packed else min(dataset.get("HighBit", stored - 1), width - 1)


def _without_other_bits(
    pixels: np.ndarray, dataset: "Dataset", outside: np.ndarray | None, notes: list[str]
) -> np.ndarray:
    """The values alone: the bits up to HighBit, BitsStored of them, the sign extended.

    Bits above HighBit may hold old overlays (drawings and text), declared in the file or not. Undeclared ones are
    taken for an overlay if they are one mark, the same wherever it is set, and the image is smoother without it: a
    value that is larger than BitsStored admits would leave a jump where it is cut. Else BitsStored is wrong, and
    cutting would make other values of them.

    Source: DICOM PS3.5, 8.1.1, and PS3.3-2004, C.9.2 (overlays in unused bits).
    """
    width, stored, high = _bits(pixels, dataset)
    if stored == width:
        return pixels
    unsigned = pixels.view(f"u{pixels.itemsize}")
    kept = (pixels << (width - 1 - high)) >> (width - stored)
    below = ((1 << high + 1 - stored) - 1) & ~_overlay_bits(dataset)
    if (unsigned & unsigned.dtype.type(below)).any():
        raise RefusedError(
            f"BitsStored is {stored} and HighBit {high}, but lower bits are used too, and no overlay is declared "
            "there: HighBit is wrong, or there are overlays; correct it, or export the series without overlays"
        )
    above = ((1 << width) - 1) & ~((1 << high + 1) - 1)
    free = unsigned.dtype.type(above & ~_overlay_bits(dataset))
    used = unsigned & free
    if not used.any():
        return kept
    if pixels.dtype.kind == "i":  # the sign may be repeated there
        used[(used == free) & (kept < 0)] = 0
    if outside is not None:
        used[outside] = 0
    marks = np.unique(used[used > 0])
    if not len(marks):
        return kept
    if len(marks) > 1 or _roughness(kept) > _roughness(pixels):
        raise RefusedError(
            f"BitsStored is {stored}, but values use bits above (up to {int(unsigned.max())}), and no overlay is "
            "declared there: BitsStored is wrong, or there are several overlays; export the series again without "
            "overlays, or correct BitsStored"
        )
    note = "bits above BitsStored mark some pixels, as old overlays do, though none is declared; the marks are left out"
    if note not in notes:
        notes.append(note)
    return kept


def _overlay_bits(dataset: "Dataset") -> int:
    """The bits of the pixels in which overlays are declared to be, as a mask."""
    mask = 0
    for group in range(0x6000, 0x6020, 2):
        position = dataset.get((group, 0x0102))
        if position is not None and (group, 0x3000) not in dataset:  # OverlayBitPosition, OverlayData
            mask |= 1 << int(position.value or 0)
    return mask


def _roughness(pixels: np.ndarray) -> float:
    return sum(float(np.abs(np.diff(pixels.astype(np.float64), axis=axis)).sum()) for axis in (1, 2))


def _is_padding(pixels: np.ndarray, dataset: "Dataset") -> np.ndarray | None:
    """Where pixels are declared to lie outside the image, as around a scanner's circle (PS3.3, C.7.5.1.1.2)."""
    first = number(dataset, "PixelPaddingValue")
    if first is None:
        return None
    last = number(dataset, "PixelPaddingRangeLimit")
    # as stored: some write -2000 as 63536, and some the other way round
    low, high = sorted(_wrapped(value, pixels.dtype) for value in (first, first if last is None else last))
    outside = pixels == low if low == high else (pixels >= low) & (pixels <= high)
    return outside if outside.any() else None


def _wrapped(value: float, kind: np.dtype) -> int:
    return int(np.array(int(value) % (1 << 8 * kind.itemsize), f"u{kind.itemsize}").view(kind))


def _fill_padding(array: np.ndarray, padding: np.ndarray, notes: list[str]) -> None:
    """Padding far outside the values takes the lowest of them."""
    if padding.all():
        return
    inside = ~padding
    top, bottom = np.array(array.flat[0]), array.dtype.type
    limits = np.finfo(bottom) if array.dtype.kind == "f" else np.iinfo(bottom)
    lowest, top = (array.min(where=inside, initial=limits.max), array.max(where=inside, initial=limits.min))
    outside = array[padding]
    beyond = max(float(lowest) - float(outside.min()), float(outside.max()) - float(top))
    if beyond > _PADDING_SHARE * (float(top) - float(lowest)):
        notes.append(
            f"{len(outside)} voxels are padding outside the image (PixelPaddingValue, {outside.min():g}), far from its "
            f"values {lowest:g} to {top:g}; they are given the value {lowest:g}"
        )
        array[padding] = lowest


def _slope_and_intercept(header: "Dataset", notes: list[str]) -> tuple[float, float]:
    slope, intercept = (_scale(header, *field) for field in (("RescaleSlope", 1.0), ("RescaleIntercept", 0.0)))
    if slope == 0:  # what GDCM and SimpleITK do: a scale that makes all values one was not meant
        slope, note = 1.0, "RescaleSlope is 0, which would make all values equal; 1 is taken"
        if note not in notes:
            notes.append(note)
    return slope, intercept


def _scale(header: "Dataset", keyword: str, otherwise: float) -> float:
    value = header.get(keyword)
    if value in (None, ""):
        return otherwise
    if (found := number(header, keyword)) is None:
        raise RefusedError(f"{keyword} is {str(value)[:60]!r}; expected one number")
    return found


def _value_type(frames: Collection[Frame], scales: Collection[tuple[float, float]]) -> type:
    """The narrowest integer type for all values that the bits can hold, float32 where a scale is no whole number."""
    low = high = 0
    for bits, signed in {(f.dataset.BitsStored, f.dataset.PixelRepresentation) for f in frames}:
        low = min(low, -(1 << bits - 1) if signed else 0)
        high = max(high, (1 << bits - 1) - 1 if signed else (1 << bits) - 1)
    for slope, intercept in scales:
        _check_scale(slope, intercept, max(-low, high))
    if all(slope == 1 and intercept.is_integer() for slope, intercept in scales):
        low, high = low + min(i for _, i in scales), high + max(i for _, i in scales)
        for kind in (np.int16, np.uint16, np.int32):
            if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
                return kind
    return np.float32


def _check_scale(slope: float, intercept: float, largest: int) -> None:
    """That neighbouring stored values stay different numbers of 32 bits."""
    limits = np.finfo(np.float32)
    fits = abs(slope) * largest + abs(intercept) < float(limits.max) and abs(slope) > float(limits.tiny)
    if not fits or abs(intercept) * float(limits.eps) > abs(slope):
        raise RefusedError(
            f"RescaleSlope {slope:g}, RescaleIntercept {intercept:g}: values beyond what 32 bits hold; expected a "
            "scale of the scanner's units: correct it, or convert the series to NIfTI"
        )
