"""The DICOM image series in a folder, a zip or a file."""

import logging
import re
from collections import defaultdict
from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mamba_unet.volumes.dicom import phases
from mamba_unet.volumes.dicom.files import Files, is_directory, opened, reading
from mamba_unet.volumes.dicom.frame import Frame, number
from mamba_unet.volumes.dicom.stack import SAME_POSITION_MM, stack_of
from mamba_unet.volumes.formats import DICOM, FILES, PICTURES, DamagedError, RefusedError, ending
from mamba_unet.words import printable, some

if TYPE_CHECKING:
    from pydicom import Dataset

log = logging.getLogger(__name__)

_LISTED = (
    *("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "SeriesNumber", "SeriesDescription", "Modality"),
    *("StudyInstanceUID", "PatientID", "PatientName", "ImageType", "Rows", "Columns", "NumberOfFrames"),
    *("InstanceNumber", "FrameOfReferenceUID", "ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing"),
    "SharedFunctionalGroupsSequence",
    *phases.LISTED,
)
_SHARED = ("StudyInstanceUID", "FrameOfReferenceUID", "SeriesInstanceUID")  # one of them tells that images belong


@dataclass(frozen=True)
class Series:
    """An image series that `find_series` found; `read_series` reads it.

    Attributes:
        uid: SeriesInstanceUID, of the first where several are joined.
        number: SeriesNumber, None where the files have none.
        description: SeriesDescription, "" where the files have none.
        modality: "CT", "MR", ...
        images: how many there are: slices times phases.
        joined: how many series it was stored as: scanners write one per slice for cardiac cine.
        path: folder, zip or file that was searched; of a DICOMDIR, its folder.
        files: its files, by their names below `path` or in the zip.
        notes: what the user should know.
    """

    uid: str
    number: int | None
    description: str
    modality: str
    images: int
    joined: int
    path: Path
    files: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        number = "without a number" if self.number is None else self.number
        joined = f", {self.joined} series joined" if self.joined > 1 else ""
        return printable(f"series {number} '{self.description}' ({self.modality}, {self.images} images{joined})")


def list_series(series: Sequence[Series]) -> str:
    """One line for each series: number, description, modality, images."""
    return "\n".join(f"  {one}" for one in series)


def find_series(path: str | Path) -> list[Series]:
    """The image series in a folder (and all below it), a zip, or a single file, by number.

    A file is DICOM by its content, whatever its name. Other files, DICOMDIR and objects that hold no image
    (segmentations, structure sets, reports, presentation states, doses) are passed over; localizers and series without
    a position (dose reports, captures of a screen) too where there is anything else. A file that is none, and is named
    as DICOM, may be a slice that is lost, and is refused. A DICOMDIR that is given itself stands for its folder.

    Images of two patients are never one series. Cine series of one slice each, and series of one image
    each, are joined where they make an even stack.

    Returns:
        Empty where there is no DICOM image.

    Raises:
        UnreadableError: there is no such path, a DICOM file is damaged, one named as DICOM is none, the zip is
            encrypted or damaged, unpacks to more than the memory limit, or holds no DICOM at all.
    """
    path = Path(path)
    with reading(path), opened(path) as files:
        if not path.is_dir() and [*files.sizes] == [path.name] and _given_directory(files):
            return find_series(path.resolve().parent)
        images = _images(files)
        by_series: dict[Hashable, list[_Image]] = defaultdict(list)
        for image in images:
            by_series[image.belongs].append(image)
        groups = list(by_series.values())
        series = [_series(path, *one) for one in _joined(_with_position(groups) or groups)]
    return sorted(series, key=lambda one: (one.number is None, one.number, one.description, one.uid))


@dataclass(frozen=True, eq=False)
class _Image:
    """A file that holds an image, without its pixels."""

    name: str
    header: "Dataset"

    @property
    def belongs(self) -> tuple[str, ...]:
        """What images of one series have in common."""
        return self.text("SeriesInstanceUID"), *self.patient

    @property
    def patient(self) -> tuple[str, ...]:
        return self.text("PatientID"), self.text("PatientName")

    def text(self, keyword: str) -> str:
        value = self.header.get(keyword)
        return "" if value is None else str(value)

    def frame(self) -> Frame | None:
        """Of a file with one image and its position; None for any other."""
        try:
            if "NumberOfFrames" in self.header or not self.header.Rows or not self.header.Columns:
                return None
            return Frame.of(self.name, self.header, 0, self.header)
        except (ValueError, TypeError, AttributeError):
            return None


def _given_directory(files: Files) -> bool:
    (name,) = files.sizes
    with reading(files.path):
        header = files.read(name, ("SOPClassUID",))
        return header is not None and is_directory(header)


def _images(files: Files) -> list[_Image]:
    images, others, slots = [], [], set()
    for name in files.sizes:
        with reading(files.place(name), "cannot be read, "):
            header = files.read(name, _LISTED)
            if header is None:
                others.append(name)
                continue
            if is_image(header):
                images.append(_Image(name, header))
            if not is_directory(header):
                slots.add(_slot(name))
    if files.packed and others and len(others) == len(files.sizes):
        raise RefusedError(f"no DICOM in the zip, but {', '.join(others[:3])}; unpack it and give the files")
    for name in (*others, *sorted(files.gone)):
        if _named_as_dicom(name, files, slots):
            with reading(files.place(name), "cannot be read, "):
                what = files.called(name)
                raise DamagedError(f"named as DICOM, and is none: {what}. If it is no image, leave it out")
    volumes = [name for name in others if ending(Path(name), FILES) and not ending(Path(name), PICTURES)]
    if files.packed and volumes:
        names = printable(some(volumes, 3))
        log.warning("%s: passed over %s: of a zip only DICOM is read; give these files themselves", files.path, names)
    return images


def _slot(name: str) -> str:
    """The name with 0 for each number, decimal or not, and no .gz: slices of a folder are counted, or named by UIDs."""
    folder, slash, file = name.replace("\\", "/").rpartition("/")
    file = file.lower().removesuffix(".gz")
    return folder + slash + re.sub("[0-9a-f]+", lambda run: run[0] if run[0].isalpha() else "0", file)


def _named_as_dicom(name: str, files: Files, slots: Collection[str]) -> bool:
    """Whether a file that is none is named as DICOM is: by its ending, or as the DICOM beside it but for numbers.

    Args:
        name: of the file.
        files: with it; a packed file that lies there unpacked too is a copy.
        slots: of the DICOM files.
    """
    plain = name.removesuffix(".gz")
    hidden = any(part.startswith(".") for part in Path(name.replace("\\", "/")).parts)
    if hidden or (plain != name and plain in files.sizes):
        return False
    return bool(ending(Path(plain), DICOM)) or _slot(name) in slots


def is_image(header: "Dataset") -> bool:
    """Whether it is of a class that stores images, or of an unknown (private) one and has pixels.

    One that is cut short before it tells counts, if it tells its series: reading that says what is wrong.
    """
    from pydicom.uid import UID

    stored = header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID") or ""
    name = UID(stored).name
    if "Rows" not in header and (not stored or "Image Storage" in name):
        if "SeriesInstanceUID" not in header:
            raise RefusedError(f"{name or 'DICOM of no class'}, cut short; copy it again, or remove it")
        return True
    return "Rows" in header and ("Image Storage" in name or name == stored)


def _with_position(groups: list[list[_Image]]) -> list[list[_Image]]:
    """Without localizers, and without series that tell no position. What is cut short before it tells stays."""
    groups = [
        [image for image in group if "LOCALIZER" not in (image.header.get("ImageType") or ())] for group in groups
    ]
    telling = ("ImagePositionPatient", "SharedFunctionalGroupsSequence")
    return [
        group
        for group in groups
        if any("Rows" not in image.header or any(keyword in image.header for keyword in telling) for image in group)
    ]


def _joined(groups: list[list[_Image]]) -> list[tuple[list[_Image], tuple[str, ...]]]:
    """Series that are stored as several, each as one with the notes on it; others as they are.

    Scanners store cardiac cine as one series for each slice; some anonymisers give each image a series of its own.
    """
    whole: list[tuple[list[_Image], tuple[str, ...]]] = []
    reasons: dict[int, str] = {}
    for rule in (_slice_of_cine, *(partial(_lone_image, shared=keyword) for keyword in _SHARED)):
        left, alike = [], defaultdict(list)
        for group in groups:
            alike[rule(group)].append(group)
        for key, parts in alike.items():
            if key is None or len(parts) < 3:  # two slices are even at any distance
                left += parts
                continue
            images = [image for part in parts for image in part]
            try:
                # a doubled slice is no obstacle here: it is compared when its pixels are read
                stack_of([part[0].frame() for part in parts], [], lambda a, b: True)
            except RefusedError as error:
                left += parts
                reasons |= {id(part): str(error) for part in parts if rule is not _slice_of_cine}
            else:
                note = (
                    f"{len(images)} images that were stored as a series each are read as one: they make an even stack"
                )
                whole.append((images, () if rule is _slice_of_cine else (note,)))
        groups = left
    for group in groups:
        reason = reasons.get(id(group))
        note = f"one image alone; others look like more of its series, but make no stack with it ({reason})"
        whole.append((group, (note,) if reason else ()))
    return whole


def _slice_of_cine(group: list[_Image]) -> tuple | None:
    """What cine series that show one slice each must share to be one stack; None for any other series."""
    frames = [image.frame() for image in group]
    if len(group) < 2 or None in frames or "FrameOfReferenceUID" not in group[0].header:
        return None
    first = frames[0]
    if any(np.linalg.norm(frame.position - first.position) > SAME_POSITION_MM for frame in frames):
        return None
    return (group[0].text("FrameOfReferenceUID"), *_look(group[0], first), len(group))


def _lone_image(group: list[_Image], shared: str) -> tuple | None:
    """What series of one image each must share to be one stack; None for any other series."""
    frame = group[0].frame()
    if len(group) > 1 or frame is None or not group[0].text(shared):
        return None
    return (group[0].text(shared), *_look(group[0], frame), *map(group[0].text, ("SeriesNumber", "SeriesDescription")))


def _look(image: _Image, frame: Frame) -> tuple:
    look = np.concatenate([frame.axes.ravel(), frame.spacing]).round(3)
    return (*image.patient, image.text("Modality"), image.header.Rows, image.header.Columns, *look.tolist())


def _series(path: Path, group: list[_Image], notes: tuple[str, ...]) -> Series:
    first = group[0]
    stored = number(first.header, "SeriesNumber")
    return Series(
        uid=first.text("SeriesInstanceUID"),
        number=None if stored is None else int(stored),
        description=first.text("SeriesDescription"),
        modality=first.text("Modality") or "?",
        images=sum(int(number(image.header, "NumberOfFrames") or 1) for image in group),
        joined=len({image.text("SeriesInstanceUID") for image in group}),
        path=path,
        files=tuple(image.name for image in group),
        notes=notes,
    )
