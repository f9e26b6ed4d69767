"""The bytes behind a header: exactly as many as it says, plain or packed, read in parts."""

import io
import math
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from mamba_unet.volumes.formats import DamagedError
from mamba_unet.volumes.limits import require_memory

CHUNK = 1 << 20
GZIP = b"\x1f\x8b"
TRAILING = 64 * CHUNK  # what may follow the voxels: some programs pad, a damaged header leaves most of the data over


class Inflated(io.RawIOBase):
    """A zlib or gzip stream (of one or more members), unpacked as it is read; its checksums are compared."""

    def __init__(self, packed: BinaryIO) -> None:
        self._packed, self._unpacker, self._waiting = packed, zlib.decompressobj(zlib.MAX_WBITS | 32), b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        while True:
            if self._unpacker.eof:
                rest = self._unpacker.unused_data
                rest += self._packed.read(CHUNK) if len(rest) < len(GZIP) else b""
                if not rest.startswith(GZIP):  # zeros or nothing
                    return 0
                self._unpacker, self._waiting = zlib.decompressobj(zlib.MAX_WBITS | 32), rest
            packed = self._waiting or self._packed.read(CHUNK)
            plain = self._unpacker.decompress(packed, len(buffer))
            self._waiting = self._unpacker.unconsumed_tail
            if plain:
                buffer[: len(plain)] = plain
                return len(plain)
            if not packed and not self._unpacker.eof:
                raise DamagedError("its packed data is cut short; copy it again")


def inflated(packed: BinaryIO) -> BinaryIO:
    """`Inflated`, with reads as long as asked for."""
    return io.BufferedReader(Inflated(packed), CHUNK)


def read_array(path: Path, stream: BinaryIO, shape: Sequence[int], dtype: np.dtype, to_end: bool = True) -> np.ndarray:
    """The array (*shape) whose values come next in the stream, the last axis fastest.

    Args:
        path: what errors name.
        stream: at the first value.
        shape: of the result.
        dtype: as stored.
        to_end: the stream ends here; what follows is read too, for its checksum.

    Raises:
        UnreadableError: more than the memory limit.
        DamagedError: fewer bytes than that, or far more.
    """
    wanted = math.prod(shape) * dtype.itemsize
    require_memory(path, wanted)
    array = np.empty(math.prod(shape), dtype)
    view, done = memoryview(array.view(np.uint8)), 0
    while done < wanted and (count := stream.readinto(view[done : done + CHUNK])):
        done += count
    if done < wanted:
        raise DamagedError(f"{done:,} bytes of values, expected {wanted:,}: cut short; copy it again")
    left = TRAILING if to_end else 0
    while left > 0 and (more := stream.read(CHUNK)):
        left -= len(more)
    if to_end and left <= 0:
        raise DamagedError(f"goes on long after the {wanted:,} bytes that its header tells; export it again")
    return array.reshape(shape)
