"""NRRD (.nrrd, .nhdr, Slicer's .seg.nrrd), read by ourselves, for the reasons of `metaimage`.

C channels, X Y Z T axes as the header counts them, the first fastest.
"""

import contextlib
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from mamba_unet.volumes.formats import DamagedError, Kind, RefusedError
from mamba_unet.volumes.payload import inflated, read_array
from mamba_unet.volumes.text_header import axis_lengths, beside, next_line, numbers
from mamba_unet.volumes.volume import Volume, in_lps

TYPES = {
    word: stored
    for stored, words in {
        "i1": ("signed char", "int8", "int8_t"),
        "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
        "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
        "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
        "i4": ("int", "signed int", "int32", "int32_t"),
        "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
        "i8": ("longlong", "long long", "long long int", "signed long long", "int64", "int64_t"),
        "u8": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
        "f4": ("float",),
        "f8": ("double",),
    }.items()
    for word in words
}
PLACES = ("domain", "space", "time", "none", "???")  # kinds of axes along which voxels lie
# the signs of a space's x and y in left posterior; others are taken for it, as ITK does
SPACES = {"right-anterior-superior": (-1, -1), "ras": (-1, -1), "left-anterior-superior": (1, -1), "las": (1, -1)}


MM = {  # of a unit of length; what is not told, and what is none, counts as millimetres
    **dict.fromkeys(("m", "meter", "meters", "metre", "metres"), 1e3),
    **dict.fromkeys(("cm", "centimeter", "centimeters", "centimetre", "centimetres"), 10.0),
    **dict.fromkeys(("um", "\u00b5m", "\u03bcm", "micron", "microns", "micrometer", "micrometers"), 1e-3),
    **dict.fromkeys(("nm", "nanometer", "nanometers", "nanometre", "nanometres"), 1e-6),
}


def read_nrrd(path: Path, kind: Kind, name: str) -> Volume:
    """An NRRD image of two to four axes, the fourth time, of one number per voxel or colours of bytes.

    Of a segmentation of Slicer, the label values of its one layer, with their names.

    Raises:
        RefusedError: a header that is none, numbers out of range, data elsewhere, too little of it or damaged; layers
            of segments that may overlap.
    """
    with contextlib.ExitStack() as files:
        stream = files.enter_context(open(path, "rb"))
        fields, pairs = _header(stream)
        lengths = _lengths(fields)
        dimension = len(lengths)
        kinds = [word.lower() for word in fields.get("kinds", "domain " * dimension).split()]
        if len(kinds) != dimension:
            raise RefusedError(f"kinds are {' '.join(kinds)[:60]!r}; expected {dimension}")
        values = [axis for axis, word in enumerate(kinds) if word not in PLACES]
        if len(values) > 1 or dimension - len(values) > 4:
            raise RefusedError(f"axes of {', '.join(kinds)}; expected up to four in space and time, and one of colours")
        if values and any(key.startswith("Segment0") for key in pairs):
            raise RefusedError(
                f"a segmentation of {lengths[values[0]]} layers, whose segments may overlap; expected one value per "
                "voxel: export it from Slicer as a labelmap"
            )
        array = read_array(path, _values(path, stream, fields, files), lengths[::-1], _dtype(fields))
    time = _time(fields, kinds, lengths)
    if time is not None:
        array = np.moveaxis(array, dimension - 1 - time, 0)
        values = [axis for axis in values if axis != time]
    places = [axis for axis in range(dimension) if axis not in (*values, time)]
    steps, origin = _geometry(fields, dimension, places)
    if values:  # colours last
        array = np.moveaxis(array, dimension - 1 - values[0], -1)
    volume = in_lps(array, steps, origin, name, bool(values), _sized(fields, dimension, places))
    return replace(volume, class_names=_segments(pairs))


def count_values(path: Path) -> int:
    """How many values a header tells of, without reading them.

    Raises:
        RefusedError: a header that is none.
    """
    with open(path, "rb") as stream:
        return math.prod(_lengths(_header(stream)[0]))


def _lengths(fields: dict[str, str]) -> list[int]:
    (dimension,) = numbers("dimension", fields.get("dimension", ""), 1, int)
    if not 2 <= dimension <= 5:
        raise RefusedError(f"dimension is {dimension}; expected 2 to 5")
    return axis_lengths("sizes", fields.get("sizes", ""), dimension)


def _header(stream: BinaryIO) -> tuple[dict[str, str], dict[str, str]]:
    """Fields and key/value pairs, up to the blank line; a detached header ends with its file."""
    fields: dict[str, str] = {}
    pairs: dict[str, str] = {}
    first = stream.read(8)
    if not re.fullmatch(rb"NRRD000[1-5]", first):
        raise DamagedError(f"begins with {first!r}, expected NRRD0001 to NRRD0005: no NRRD file")
    next_line(stream)
    while line := next_line(stream):
        if line.startswith("#"):
            continue
        key, sign, value = line.partition(":")
        if not sign:
            raise RefusedError(f"{line[:60]!r} in its header; expected `field: value`")
        known, key, value = (pairs, key, value[1:]) if value.startswith("=") else (fields, key.strip().lower(), value)
        key = {"datafile": "data file", "byteskip": "byte skip", "lineskip": "line skip"}.get(key, key)
        if key in known:
            raise RefusedError(f"its header tells {key[:60]!r} twice")
        known[key] = value.strip()
    return fields, pairs


def _dtype(fields: dict[str, str]) -> np.dtype:
    stored = TYPES.get(fields.get("type", "").lower())
    if stored is None:
        raise RefusedError(f"type is {fields.get('type', '')[:60]!r}; expected numbers, such as short or float")
    dtype = np.dtype(stored)
    endian = fields.get("endian", "little" if dtype.itemsize == 1 else "").lower()
    if endian not in ("little", "big"):
        raise RefusedError(f"endian is {endian[:60]!r}; expected little or big")
    return dtype.newbyteorder("<" if endian == "little" else ">")


def _values(path: Path, stream: BinaryIO, fields: dict[str, str], files: contextlib.ExitStack) -> BinaryIO:
    """The stream at the first value."""
    encoding = fields.get("encoding", "").lower()
    if encoding not in ("raw", "gzip", "gz"):
        raise RefusedError(f"encoding is {encoding[:60]!r}; expected raw or gzip: save it so")
    (skip,) = numbers("byte skip", fields.get("byte skip", "0"), 1, int)
    if skip < -1 or (skip and encoding != "raw") or fields.get("line skip", "0") != "0":
        raise RefusedError(
            f"line skip {fields.get('line skip', '0')[:20]}, byte skip {skip}: expected none; save it so"
        )
    if "data file" in fields:
        stream = files.enter_context(open(beside(path, fields["data file"]), "rb"))
    if skip > 0:
        stream.seek(skip, 1)
    elif skip == -1:
        wanted = math.prod(_lengths(fields)) * _dtype(fields).itemsize
        here, end = stream.tell(), stream.seek(0, 2)
        stream.seek(max(here, end - wanted))
    return stream if encoding == "raw" else inflated(stream)


def _geometry(fields: dict[str, str], dimension: int, places: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """The steps between voxels as columns (a, a) and the first one's position (a), of the axes in space and time."""
    count = len(places)
    if "space directions" not in fields:
        spacings = numbers("spacings", fields.get("spacings", "nan " * dimension), dimension)
        lowest = numbers("axis mins", fields.get("axis mins", "nan " * dimension), dimension)
        centres = fields.get("centers", fields.get("centerings", "cell " * dimension)).split()
        units = _units(fields.get("units", ""), dimension)
        steps = np.array([1.0 if np.isnan(spacings[axis]) else spacings[axis] * units[axis] for axis in places])
        cells = np.array([len(centres) != dimension or centres[axis] != "node" for axis in places])
        edges = np.array([lowest[axis] * units[axis] for axis in places])
        return np.diag(steps), np.where(np.isnan(edges), 0.0, edges + cells * steps / 2)
    vectors = _directions(fields)
    if len(vectors) != dimension or any((vectors[axis] == "none") == (axis in places) for axis in range(dimension)):
        raise RefusedError(
            f"space directions are {fields['space directions'][:60]!r}; expected a vector for every axis in space"
        )
    steps = np.stack([_vector("space directions", vectors[axis], count) for axis in places], axis=1)
    origin = _vector("space origin", fields.get("space origin", f"({','.join('0' * count)})"), count)
    space = re.sub(r"(-time|t)$", "", fields.get("space", "").lower())
    signs = np.ones(count)
    signs[:2] = SPACES.get(space, (1, 1))
    mm = signs * _units(fields.get("space units", ""), count)
    return mm[:, None] * steps, mm * origin


def _sized(fields: dict[str, str], dimension: int, places: list[int]) -> bool:
    """Whether the header tells the size of a voxel along each axis of the space, of which there are three at most."""
    spacings = numbers("spacings", fields.get("spacings", "nan " * dimension), dimension)
    return "space directions" in fields or not np.isnan([spacings[axis] for axis in places[:3]]).any()


def _directions(fields: dict[str, str]) -> list[str]:
    """Of each axis its vector, or "none"."""
    return re.findall(r"none|\([^()]*\)", fields.get("space directions", ""))


def _time(fields: dict[str, str], kinds: list[str], lengths: list[int]) -> int | None:
    """The axis of time where it is no axis of the space: the first or last of four, as Slicer writes a cine. A list of
    three or four may be colours, and is taken for them."""
    vectors = _directions(fields)
    if len(vectors) != 4 or len(kinds) != 4 or vectors.count("none") != 1:
        return None
    axis = vectors.index("none")
    told = kinds[axis] == "time" or (kinds[axis] == "list" and lengths[axis] not in (3, 4))
    return axis if axis in (0, 3) and told else None


def _units(text: str, count: int) -> np.ndarray:
    """Millimetres of the unit of each axis; 1 where none is told, and of other units, such as those of time."""
    words = re.findall(r'"([^"]*)"', text)
    return np.array([MM.get(word.strip().lower(), 1.0) for word in words] if len(words) == count else [1.0] * count)


def _vector(field: str, text: str, count: int) -> np.ndarray:
    return np.array(numbers(field, text.strip().strip("()").replace(",", " "), count))


def _segments(pairs: dict[str, str]) -> tuple[str, ...] | None:
    """Of Slicer: the class names by label value, "class 2" for a value without a segment; None in other files."""
    found: dict[int, str] = {}
    for key, name in pairs.items():
        if match := re.fullmatch(r"Segment(\d{1,4})_Name", key):
            value = pairs.get(f"Segment{match[1]}_LabelValue", "")
            if not re.fullmatch(r"\d{1,4}", value) or int(value) in found:
                return None
            found[int(value)] = name
    if not found or 0 in found or max(found) > 255:
        return None
    return ("background", *(found.get(value, f"class {value}") for value in range(1, max(found) + 1)))
