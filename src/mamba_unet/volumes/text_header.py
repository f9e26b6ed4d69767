"""What the text headers of MetaImage and NRRD have in common: few lines, plain words, numbers within limits."""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import BinaryIO

from mamba_unet.volumes.formats import ITK, DamagedError, RefusedError, ending
from mamba_unet.words import printable

LONGEST_LINE, MOST_BYTES = 1 << 17, 1 << 22
MOST_VOXELS_ALONG = 1 << 31
DATA_FILE = re.compile(r"(?:ElementDataFile\s*=|data ?file\s*:)\s*(\S.*?)\s*", re.IGNORECASE)


def next_line(stream: BinaryIO) -> str | None:
    """The next line of a header, without its end; None at the end of the file.

    Raises:
        RefusedError: a control character, a line too long, or a header too long.
    """
    line = stream.readline(LONGEST_LINE)
    if stream.tell() > MOST_BYTES or (len(line) == LONGEST_LINE and not line.endswith(b"\n")):
        raise DamagedError("its header has no end; expected lines of text")
    if not line:
        return None
    text = line.decode("utf-8", "replace").removesuffix("\n").removesuffix("\r")
    if any(ord(character) < 32 and character != "\t" for character in text):
        raise DamagedError(f"a line of its header is no text: {text[:60]!r}; damaged, or of another kind")
    return text


def numbers(name: str, text: str, count: int, kind: Callable[[str], float] = float) -> list:
    """The numbers of a field.

    Raises:
        RefusedError: others than `count` of them.
    """
    try:
        found = [kind(word) for word in text.split()]
    except ValueError:
        found = []
    if len(found) != count:
        what = "whole number" if kind is int else "number"
        raise DamagedError(f"{name} is {printable(text[:60])!r}; expected {count} {what}{'s' * (count > 1)}")
    return found


def axis_lengths(name: str, text: str, count: int) -> list[int]:
    """The numbers of voxels along axes.

    Raises:
        RefusedError: others than `count` of them, or one that is none.
    """
    lengths = numbers(name, text, count, int)
    if not all(0 < length < MOST_VOXELS_ALONG for length in lengths):
        raise RefusedError(f"{name} is {text[:60]!r}; expected positive numbers of voxels")
    return lengths


def beside(path: Path, name: str) -> Path:
    """The data file that a header names: one in the header's own folder.

    Raises:
        RefusedError: anything else. A header that was sent must not name the receiver's own files.
    """
    name = name.removeprefix("./")
    plain = name not in ("", ".", "..") and not any(sign in name for sign in "/\\:%=") and name == name.strip()
    if not plain or name.split()[0].upper() == "LIST":
        raise RefusedError(
            f"its data file {printable(name[:200])} is elsewhere, or no plain name; expected one file beside the header"
        )
    if not (path.parent / name).is_file():
        raise RefusedError(f"its data file {printable(name[:200])} is not beside it; copy both")
    return path.parent / name


def data_files(path: Path) -> list[Path]:
    """The file beside a header that holds its voxels, where there is one; whether it fits, reading it says."""
    if not ending(path, ITK):
        return []
    try:
        with path.open("rb") as file:
            lines = iter(partial(next_line, file), None)
            named = next(filter(None, map(DATA_FILE.fullmatch, lines)), None)
        return [beside(path, named[1])] if named else []
    except (RefusedError, OSError):  # a header that is none, or a name that no disk takes
        return []
