"""The volumes that files, folders, globs and zips stand for, each with the name of its outputs."""

import glob
import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType

from mamba_unet.volumes.dicom.files import is_dicom
from mamba_unet.volumes.dicom.find import Series, find_series
from mamba_unet.volumes.dicom.read import read_series
from mamba_unet.volumes.formats import (
    ARRAYS,
    DATA,
    FILES,
    ITK,
    NIFTI,
    OTHERS,
    PICTURES,
    TAKEN,
    ZIP,
    UnreadableError,
    dangles,
    ending,
    stem,
)
from mamba_unet.volumes.read import case_name, read_volume
from mamba_unet.volumes.text_header import data_files
from mamba_unet.volumes.volume import Volume, join_channels
from mamba_unet.words import printable, some

log = logging.getLogger(__name__)

CHANNEL = re.compile(r"(.+)_(\d{4})")  # nnU-Net's name of a channel's file


@dataclass(frozen=True)
class VolumeFile:
    """A volume that was found and not read yet.

    Attributes:
        name: what its outputs are called; no other input has it.
        path: the file, or the folder or zip of a DICOM series.
        read: reads it; raises UnreadableError.
        series: of DICOM in a folder or zip: which one of `path`.
        channels: the files of all its channels, where each has a file of its own; `path` is the first.
    """

    name: str
    path: Path
    read: Callable[[], Volume] = field(repr=False, compare=False)
    series: Series | None = field(default=None, repr=False)
    channels: tuple[Path, ...] = ()

    @property
    def files(self) -> list[Path]:
        """The files that it is read from: a header with its data file; of a folder those of the series; a zip as it is.

        Empty for a link to nothing, and for a folder that cannot be read.
        """
        if not self.path.is_file():
            return [self.path / name for name in (self.series.files if self.series else ())]
        return [file for one in self.channels or (self.path,) for file in (one, *data_files(one))]


def find_volumes(
    inputs: Sequence[str | Path],
    channels: int | None = None,
    called: Mapping[Path, str] = MappingProxyType({}),
    without: Collection[Path] = (),
) -> list[VolumeFile]:
    """The volumes that inputs stand for, in their order, each once.

    An input is a file that `read_volume` takes; a zip of DICOM series; a folder; or a glob (`**` goes into folders)
    that the shell has not expanded. A folder stands for the files in it, not below it; or, where it holds DICOM or no
    such files, for every DICOM series in and below it. Hidden files are passed over, and ACDC's labels (`..._gt` beside
    an image of that name). Whether a file named here can be read is seen only when it is.

    Where the number of channels that a network takes is given, nnU-Net's files `CASE_0000`, `CASE_0001`, ... are one
    volume (colours are in one file already, so pictures are not joined to three channels); one without all its channels
    cannot be read.

    Names are those of the files without endings and nnU-Net's `_0000`; a single DICOM series has its folder's or zip's,
    one of several `<folder>_<series number>_<description>`.

    Args:
        inputs: see above.
        channels: that a network takes; None joins no files.
        called: what the files are called, where their names on disk do not say it.
        without: files, with all links resolved, that folders and globs do not stand for.

    Raises:
        ValueError: a path that does not exist, an input that stands for nothing, two volumes of one name, slices of a
            DICOM series given one by one.
    """
    found: dict[str, VolumeFile] = {}
    listed = [volume for given in inputs for volume in _expand(given, without)]
    for volume in _join_channels(listed, channels, called) if channels else listed:
        other = found.setdefault(volume.name, volume)
        if _position(other) != _position(volume):
            raise ValueError(
                f"{other.path} and {volume.path} would both be called {volume.name!r}; rename one, or give them apart"
            )
    if not found:
        raise ValueError(f"no images to read; expected {TAKEN}, or folders or globs of these")
    _refuse_single_slices(found.values())
    return list(found.values())


def _refuse_single_slices(volumes: Iterable[VolumeFile]) -> None:
    """`series/*.dcm` is meant as one volume; as files it would be as many as there are slices."""
    first: dict[tuple[Path, str], VolumeFile] = {}
    for volume in volumes:
        if volume.series is not None and volume.series.images == 1 and volume.path.is_file():
            other = first.setdefault((volume.path.resolve().parent, volume.series.uid), volume)
            if other is not volume:
                raise ValueError(
                    f"{other.path} and {volume.path.name} are slices of one DICOM series; give the folder they are in"
                )


def _join_channels(files: Sequence[VolumeFile], count: int, called: Mapping[Path, str]) -> list[VolumeFile]:
    """Files `CASE_0000` to `CASE_<count - 1>` as one volume each; other files as they are."""
    joined: list[VolumeFile] = []
    cases: dict[tuple[Path, str], dict[int, Path]] = {}
    for file in files:
        name = stem(Path(called.get(file.path, file.path.name)))
        match = None if file.series is not None or file.path.is_dir() else CHANNEL.fullmatch(name)
        if match is None or (count in (1, 3) and ending(file.path, PICTURES)):
            joined.append(file)
            continue
        key = (file.path.parent, match[1])
        if key not in cases:
            joined.append(VolumeFile(match[1], file.path, partial(_read_channels, cases.setdefault(key, {}))))
        other = cases[key].setdefault(int(match[2]), file.path)
        if other.resolve() != file.path.resolve():
            raise ValueError(f"{other} and {file.path} would both be channel {match[2]} of {match[1]!r}; leave one out")
    if count == 1:
        return _refuse_further_channels(files, cases)
    return [
        _complete(one, channels, count)
        if one.path in (channels := cases.get((one.path.parent, one.name), {})).values()
        else one
        for one in joined
    ]


def _complete(case: VolumeFile, channels: Mapping[int, Path], count: int) -> VolumeFile:
    """A case with the files of all its channels; one without some of them is refused when it is read."""
    files = tuple(channels[number] for number in sorted(channels))
    if sorted(channels) == list(range(count)):
        return replace(case, path=files[0], channels=files)
    return replace(case, read=partial(_refuse_incomplete, case.path, case.name, files, count))


def _refuse_incomplete(path: Path, case: str, files: Sequence[Path], count: int) -> Volume:
    raise UnreadableError(
        path,
        f"the network takes {count} channels, expected {case}_0000 to {case}_{count - 1:04d}; found "
        f"{', '.join(file.name for file in files)}: add what is missing, or leave the case out",
    )


def _refuse_further_channels(
    files: Sequence[VolumeFile], cases: Mapping[tuple[Path, str], Mapping[int, Path]]
) -> list[VolumeFile]:
    """For a network of one channel: the files as they are, but for cases that have a first and further channels."""
    several = {key: found for key, found in cases.items() if 0 in found and len(found) > 1}
    further = {path for found in several.values() for number, path in found.items() if number > 0}
    firsts = {found[0]: sorted(found.values()) for found in several.values()}
    return [
        replace(file, read=partial(_refuse_channels, file.path, firsts[file.path])) if file.path in firsts else file
        for file in files
        if file.path not in further
    ]


def _refuse_channels(path: Path, channels: Sequence[Path]) -> Volume:
    raise UnreadableError(
        path,
        f"by its name the first of {len(channels)} channels (the last is {channels[-1].name}), and the network takes "
        "one: give that one alone; or, if these are cases of their own, rename them",
    )


def _read_channels(channels: Mapping[int, Path]) -> Volume:
    return join_channels([read_volume(channels[number]) for number in sorted(channels)])


def _position(volume: VolumeFile) -> tuple[Path, str]:
    return volume.path.resolve(), volume.series.uid if volume.series else ""


def expand(given: str | Path) -> list[Path]:
    """The paths that an input stands for: what a glob matches that is no file's name; else itself."""
    path = Path(os.path.expanduser(given))
    if path.exists() or dangles(path) or not glob.has_magic(str(path)):
        return [path]
    return [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]


def _expand(given: str | Path, without: Collection[Path]) -> list[VolumeFile]:
    path = Path(os.path.expanduser(given))
    if path.is_dir():
        volumes = _in_folder(path, without)
    elif path.exists() or dangles(path):
        volumes = _in_file(path)
    elif (matches := expand(path)) != [path]:
        folders = [match for match in matches if match.is_dir()]
        matches = [match for match in matches if match.is_file() and match.resolve() not in without]
        files = [match for match in matches if ending(match, (*FILES, *ZIP)) or is_dicom(match)]
        volumes = [volume for file in files for volume in _in_file(file)]
        volumes += [volume for folder in folders for volume in _in_folder(folder, without)]
    else:
        raise ValueError(f"{path}: no such file or folder")
    if not volumes:
        below = {file.parent for file in path.rglob("*") if ending(file, FILES)} if path.is_dir() else set()
        likely = min(below, key=lambda folder: ("image" not in folder.name.lower(), folder), default=None)
        hint = f"; images lie in folders below, give one of them, such as {likely}" if likely else ""
        raise ValueError(f"{path}: no image there; expected {TAKEN}{hint}")
    return volumes


def _in_file(file: Path) -> list[VolumeFile]:
    if not dangles(file) and (ending(file, ZIP) or (not ending(file, FILES) and is_dicom(file))):
        return _series(file) or [_unread(file)]
    return [_unread(file)]


def _unread(path: Path) -> VolumeFile:
    return VolumeFile(case_name(path), path, partial(read_volume, path))


def _in_folder(folder: Path, without: Collection[Path]) -> list[VolumeFile]:
    visible = sorted(
        path for path in folder.iterdir() if not path.name.startswith(".") and path.resolve() not in without
    )
    entries = [path for path in visible if path.is_file()]
    files = [path for path in visible if ending(path, (*FILES, *ZIP)) and (path.is_file() or dangles(path))]
    if others := [path.name for path in entries if ending(path, OTHERS) and not ending(path, DATA)]:
        log.warning("%s: passed over %s: not kinds of files that are taken", folder, printable(some(others)))
    names = {case_name(path) for path in files}
    labels = {f"{name}_gt" for name in names} & names  # ACDC has them beside their images
    files = [path for path in files if case_name(path) not in labels]
    series = []
    if not files or any(is_dicom(path) for path in set(entries).difference(files)):
        series = _series(folder)
    elif all(ending(path, (*PICTURES, *ZIP)) for path in files) and (below := _dicom_below(folder, without)):
        told = printable(str(below.relative_to(folder)))
        log.warning("%s: passed over DICOM in folders below, such as %s; give it too", folder, told)
    if series:
        files = [path for path in files if not ending(path, PICTURES)]  # previews that an export puts beside DICOM
        below = [path for path in folder.rglob("*") if path.parent != folder and ending(path, (*NIFTI, *ITK, *ARRAYS))]
        names = [str(path.relative_to(folder)) for path in sorted(below) if path.resolve() not in without]
        if names := [name for name in names if not any(part.startswith(".") for part in Path(name).parts)]:
            told = printable(some(names))
            log.warning("%s: passed over %s: of folders below only DICOM is taken; give them too", folder, told)
    return [volume for file in files for volume in _in_file(file)] + series


def _dicom_below(folder: Path, without: Collection[Path]) -> Path | None:
    """A DICOM file in the folders below, where there is one."""
    for path in folder.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if hidden or path.parent == folder or ending(path, (*FILES, *ZIP, *OTHERS)):
            continue
        with suppress(OSError, RuntimeError):  # one that this user may not read, a link that leads to itself
            if path.is_file() and path.resolve() not in without and is_dicom(path):
                return path
    return None


def _series(path: Path) -> list[VolumeFile]:
    try:
        found = find_series(path)
    except UnreadableError:
        return [_unread(path)]  # it says why when it is read
    path = found[0].path if found else path  # of a DICOMDIR its folder
    names = [case_name(path)] if len(found) == 1 else _series_names(case_name(path), found)
    return [
        VolumeFile(name, path, partial(_read_series, one, name), one) for name, one in zip(names, found, strict=True)
    ]


def _series_names(folder: str, found: Sequence[Series]) -> list[str]:
    """`<folder>_<number>_<description>`; where several are alike, also the folder below; where that too is, counted."""
    names = ["_".join((folder, *_words(one.number, one.description))) for one in found]
    below = [_words(os.path.dirname(one.files[0])) for one in found]
    counted = [[str(number)] for number in range(1, len(found) + 1)]
    for marks in (below, counted):
        often = Counter(names)
        names = ["_".join((name, *mark)) if often[name] > 1 else name for name, mark in zip(names, marks, strict=True)]
    return names


def _words(*parts: object) -> list[str]:
    """The parts that are there, each fit for a file's name."""
    words = [re.sub(r"\W+", "-", "" if part is None else str(part)).strip("-_") for part in parts]
    return [word for word in words if word]


def _read_series(series: Series, name: str) -> Volume:
    return replace(read_series(series), name=name)
