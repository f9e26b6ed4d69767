"""MetaImage (.mha, .mhd), read by ourselves: libraries open whatever file a header names, and break at odd numbers.

C channels, X Y Z T axes as the header counts them, X fastest.
"""

import contextlib
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from mamba_unet.volumes.formats import DamagedError, Kind, RefusedError
from mamba_unet.volumes.payload import inflated, read_array
from mamba_unet.volumes.text_header import axis_lengths, beside, next_line, numbers
from mamba_unet.volumes.volume import Volume, in_lps

TYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG": "i4",
    "MET_ULONG": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
SAME = {  # other names of a field
    "Position": "Offset",
    "Origin": "Offset",
    "Orientation": "TransformMatrix",
    "Rotation": "TransformMatrix",
    "ElementByteOrderMSB": "BinaryDataByteOrderMSB",
}
LAST = "ElementDataFile"  # the values follow
MM = {"mm": 1.0, "cm": 10.0, "um": 1e-3, "?": 1.0}  # of DistanceUnits
SCALE = ("ElementToIntensityFunctionSlope", "ElementToIntensityFunctionOffset")
FIELDS = {  # that are read; ITK writes others besides, such as those of the DICOM file that the image was
    *("ObjectType", "NDims", "DimSize", "ElementNumberOfChannels", "ElementType", "BinaryData", "CompressedData"),
    *("BinaryDataByteOrderMSB", "HeaderSize", "ElementSpacing", "ElementSize", "TransformMatrix", "Offset"),
    *("DistanceUnits", *SCALE, LAST),
}


def read_metaimage(path: Path, kind: Kind, name: str) -> Volume:
    """A MetaImage of two to four axes, the fourth time, of one number per voxel or colours of bytes.

    Raises:
        RefusedError: a header that is none, numbers out of range, data elsewhere, too little of it or damaged.
    """
    with contextlib.ExitStack() as files:
        stream = files.enter_context(open(path, "rb"))
        header = _header(stream)
        lengths, channels = _lengths(header)
        axes = len(lengths)
        stored = TYPES.get(header.get("ElementType", ""))
        if stored is None:
            raise RefusedError(f"ElementType is {header.get('ElementType')!r}; expected one of {', '.join(TYPES)}")
        if not _flag(header, "BinaryData", "True"):
            raise RefusedError("its values are written as text (BinaryData = False); save it as binary")
        packed = _flag(header, "CompressedData", "False")
        dtype = np.dtype(stored).newbyteorder(">" if _flag(header, "BinaryDataByteOrderMSB", "False") else "<")
        shape = (*lengths[::-1], *((channels,) if channels != 1 else ()))

        local = header[LAST].upper() == "LOCAL"
        if not local:
            stream = files.enter_context(open(beside(path, header[LAST]), "rb"))
        _skip(stream, header, local or packed, math.prod(shape) * dtype.itemsize)
        array = read_array(path, inflated(stream) if packed else stream, shape, dtype)

    def geometry(field: str, count: int, default: str) -> np.ndarray:
        return np.array(numbers(field, header.get(field, default), count))

    spacing = geometry("ElementSpacing", axes, header.get("ElementSize", " ".join("1" * axes)))
    steps = geometry("TransformMatrix", axes * axes, " ".join(np.eye(axes, dtype=int).ravel().astype(str)))
    steps = steps.reshape(axes, axes).T * spacing  # a row of the matrix is the direction of an axis
    unit = header.get("DistanceUnits", "mm")
    if unit not in MM:
        raise RefusedError(f"DistanceUnits is {unit[:60]!r}; expected one of {', '.join(MM)}")
    mm = np.array([MM[unit]] * 3 + [1])[:axes]  # not of time
    origin = geometry("Offset", axes, " ".join("0" * axes))
    sized = "ElementSpacing" in header or "ElementSize" in header
    volume = in_lps(array, mm[:, None] * steps, mm * origin, name, channels != 1, sized)
    scale = [float(geometry(field, 1, default)[0]) for field, default in zip(SCALE, "10", strict=True)]
    if scale != [1, 0]:
        note = f"its header tells a scale of its values (slope {scale[0]:g}, offset {scale[1]:g}), which is left out"
        volume = replace(volume, notes=(*volume.notes, f"{note}, as ITK does"))
    return volume


def count_values(path: Path) -> int:
    """How many values a header tells of, without reading them.

    Raises:
        RefusedError: a header that is none.
    """
    with open(path, "rb") as stream:
        lengths, channels = _lengths(_header(stream))
    return math.prod(lengths) * channels


def _lengths(header: dict[str, str]) -> tuple[list[int], int]:
    """Voxels along each axis, and values of each voxel."""
    (axes,) = numbers("NDims", header.get("NDims", ""), 1, int)
    if not 2 <= axes <= 4:
        raise RefusedError(f"NDims is {axes}; expected 2, 3 or 4")
    lengths = axis_lengths("DimSize", header.get("DimSize", ""), axes)
    return lengths, *axis_lengths("ElementNumberOfChannels", header.get("ElementNumberOfChannels", "1"), 1)


def _header(stream) -> dict[str, str]:
    """The fields that are read, up to the one behind which the values are.

    Other fields are passed over, with further lines of their text: a comment in DICOM may have several.
    """
    header: dict[str, str] = {}
    foreign = False  # the last field
    while LAST not in header:
        line = next_line(stream)
        if line is None:
            raise DamagedError(f"its header has no {LAST}: cut short, or no MetaImage")
        key, sign, value = (part.strip() for part in line.partition("="))
        field, word = SAME.get(key, key), re.split(r"\W", key)[0]
        misspelt = field not in FIELDS and word in FIELDS  # `ElementSpacing: 1 1 1`
        if misspelt or (not sign and key and not foreign):
            raise RefusedError(f"{line[:60]!r} in its header; expected `Key = Value`")
        if not sign:
            continue
        foreign = field not in FIELDS
        if foreign and LAST.lower() in field.lower():
            raise RefusedError(f"{field[:60]!r} in its header; expected {LAST}")
        if field in header:
            raise RefusedError(f"its header tells {field} twice")
        if not foreign:
            header[field] = value
    if header.get("ObjectType", "Image") != "Image":
        raise RefusedError(f"ObjectType is {header['ObjectType']!r}; expected Image")
    return header


def _flag(header: dict[str, str], field: str, default: str) -> bool:
    word = header.get(field, default).lower()
    if word not in ("true", "false", "1", "0", "t", "f"):
        raise RefusedError(f"{field} is {word!r}; expected True or False")
    return word[0] in "t1"


def _skip(stream, header: dict[str, str], at_once: bool, wanted: int) -> None:
    """Go to the values in a file of their own: behind HeaderSize bytes; for -1, as many as are wanted end the file."""
    (before,) = numbers("HeaderSize", header.get("HeaderSize", "0"), 1, int)
    if before < -1 or (before > 0 and at_once):
        raise RefusedError(f"HeaderSize is {before}; expected 0, or bytes before the values in a file of their own")
    if before == -1 and not at_once:
        before = stream.seek(0, 2) - wanted
        if before < 0:
            raise DamagedError(f"its data file lacks {-before:,} of {wanted:,} bytes: cut short; copy it again")
    if not at_once:
        stream.seek(before)
