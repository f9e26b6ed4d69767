"""The DICOM files of a folder, a zip or a single file: told by their content, and read within the memory limit."""

import logging
import os
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from mamba_unet.volumes import formats
from mamba_unet.volumes.formats import DamagedError, RefusedError, UnreadableError
from mamba_unet.volumes.limits import require_memory

if TYPE_CHECKING:
    from pydicom import Dataset

_CHUNK = 1 << 20
_META_LENGTH = b"\x02\0\0\0UL\x04\0"  # the element that begins the file meta information
_DEFLATED, _PLAIN = b"1.2.840.10008.1.2.1.99", b"1.2.840.10008.1.2.1\0\0\0"
_DIRECTORY = "1.2.840.10008.1.3.10"


@contextmanager
def reading(place: Path, problem: str = "") -> Iterator[None]:
    """`formats.reading`, without pydicom's remarks on odd values in users' files: what matters is checked here."""
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="pydicom")
        with formats.reading(place, problem):
            yield


@dataclass(frozen=True)
class Files:
    """The files below `path`, or in it.

    Attributes:
        path: folder, zip or file.
        sizes: bytes of each file by its name below `path` or in the zip, unpacked.
        open: a file by its name.
        packed: whether they are in a zip.
        gone: names of links to nothing, which are not among `sizes`.
    """

    path: Path
    sizes: dict[str, int]
    open: Callable[[str], BinaryIO]
    packed: bool = False
    gone: Collection[str] = ()

    def place(self, name: str) -> Path:
        """What errors call a file."""
        return place(self.path, name)

    def called(self, name: str) -> str:
        """What a file is that is no DICOM, and what to do."""
        if name in self.gone:
            return formats.DANGLES
        with self.open(name) as stream:
            return formats.called(stream.read(132))

    def read(self, name: str, tags: Sequence[str] | None = None) -> "Dataset | None":
        """A file's data set, with its pixels, or without them and only the attributes `tags`; None if not DICOM.

        Raises:
            Exception: anything, at a damaged file; see `reading`.
        """
        from pydicom import dcmread
        from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

        with self.open(name) as stream:
            if not _starts_dicom(stream):
                return None
            stream.seek(0)
            source = stream
            if tags is None or isinstance(stream, zipfile.ZipExtFile):
                require_memory(self.place(name), self.sizes[name])
                source = BytesIO(b"".join(iter(lambda: stream.read(_CHUNK), b"")))
            source = self._inflated(name, source)
            listed = None if tags is None else list(tags)
            dataset = dcmread(source, force=True, stop_before_pixels=tags is not None, specific_tags=listed)
        if "TransferSyntaxUID" not in dataset.file_meta:
            implicit, little = dataset.original_encoding
            explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
            dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
        return dataset

    def _inflated(self, name: str, stream: BinaryIO) -> BinaryIO:
        """A deflated DICOM file (PS3.5, A.5) as a plain one; any other as it is. pydicom would inflate without end."""
        head = stream.read(132)
        start = 132 if head[128:] == b"DICM" else 0
        stream.seek(start)
        first = stream.read(12)
        length = int.from_bytes(first[8:], "little") if first.startswith(_META_LENGTH) else 1024
        meta = stream.read(min(length, 1 << 16))
        if _DEFLATED not in meta:
            stream.seek(0)
            return stream
        if not first.startswith(_META_LENGTH) or len(meta) < length:
            raise RefusedError("deflated, and where its file meta information ends is not told; export it again")
        unpacker, parts, size = zlib.decompressobj(-zlib.MAX_WBITS), [], 0
        packed = stream.read(_CHUNK)
        while packed and not unpacker.eof:
            parts.append(unpacker.decompress(packed, _CHUNK))
            size += len(parts[-1])
            require_memory(self.place(name), size)
            packed = unpacker.unconsumed_tail or stream.read(_CHUNK)
        if not unpacker.eof:
            raise RefusedError("deflated and cut short; copy it again")
        return BytesIO(b"".join((bytes(128), b"DICM", first, meta.replace(_DEFLATED, _PLAIN), *parts)))


@contextmanager
def opened(path: Path) -> Iterator[Files]:
    """The files in a folder and all below it, in a zip, or a single file. Nothing of a zip is unpacked to disk."""
    if path.is_dir():
        names = sorted(file.relative_to(path).as_posix() for file in _files_below(path))
        gone = {name for name in names if formats.dangles(path / name)}
        sizes = {name: (path / name).stat().st_size for name in names if name not in gone}
        yield Files(path, sizes, lambda name: (path / name).open("rb"), gone=gone)
    elif not path.is_file():
        raise UnreadableError(path, "no such file or folder")
    elif not zipfile.is_zipfile(path):
        if formats.ending(path, formats.ZIP) and not is_dicom(path):
            formats.refuse_other(path, own=(b"PK\x03\x04",))
            raise DamagedError("no zip, or one without its end: cut short; copy it again")
        yield Files(path, {path.name: path.stat().st_size}, lambda name: path.open("rb"))
    else:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            _check_members(path, members)
            sizes = {member.filename: member.file_size for member in members}
            yield Files(path, dict(sorted(sizes.items())), archive.open, packed=True)


def _files_below(folder: Path) -> Iterator[Path]:
    """Through linked folders too, each folder once; with links to nothing."""
    seen = set()
    for root, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        files = (Path(root, name) for name in names)
        yield from (file for file in files if file.is_file() or formats.dangles(file))


def _check_members(path: Path, members: Sequence[zipfile.ZipInfo]) -> None:
    twice = [name for name, count in Counter(member.filename for member in members).items() if count > 1]
    if twice:
        raise RefusedError(
            f"{len(twice)} names in the zip stand for several files each, such as {twice[0]}; expected one file for "
            "each name: pack the folder again"
        )
    if any(member.flag_bits & 1 for member in members):
        raise RefusedError("the zip is encrypted; unpack it and give the folder")
    if any(member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for member in members):
        raise RefusedError("the zip is packed in an unusual way, which cannot be unpacked within bounds; pack it again")
    # what a member really unpacks to is bounded too: zipfile stops at the size that the directory tells
    require_memory(path, sum(member.file_size for member in members))


def place(path: Path, name: str) -> Path:
    """Where the file `name` of a folder, a zip or a single file lies, for messages."""
    return path if path.name == name and path.is_file() else path / name


def is_dicom(file: Path) -> bool:
    """Whether a file is DICOM by its content, whatever its name."""
    with open(file, "rb") as stream:
        return _starts_dicom(stream)


def is_directory(header: "Dataset") -> bool:
    """Whether a data set is a DICOMDIR, which names files and holds no image."""
    return header.file_meta.get("MediaStorageSOPClassUID") == _DIRECTORY


def _starts_dicom(stream: BinaryIO) -> bool:
    """The mark after the preamble; without one, an element of group 2 or 8: its type, or a length that fits two bytes.

    Source: DICOM PS3.10, section 7.1; PS3.5, section 7.1.
    """
    head = stream.read(132)
    typed = head[4:6].isalpha() and head[4:6].isupper()
    bare = head[:2] in (b"\x08\0", b"\x02\0") and head[3:4] == b"\0" and (typed or head[6:8] == b"\0\0")
    return head[128:] == b"DICM" or bare
